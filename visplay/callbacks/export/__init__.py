"""Policies on their way out of a run: directories, what is kept of them, model cards, the Hub."""
