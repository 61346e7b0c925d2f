"""What a step did, kept so that it can be done again: written during a run, replayed after it."""
