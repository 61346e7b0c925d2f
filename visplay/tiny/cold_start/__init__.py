"""How the embedded base was made: ``python -m visplay.tiny.cold_start``."""
