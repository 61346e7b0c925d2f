"""What a run needs before any weight is loaded: memory by stage, tokens, disk, and what to change."""
