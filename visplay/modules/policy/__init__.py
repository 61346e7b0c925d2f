"""The base VLM wrapper and all that serves it."""
