"""What one iteration hands to the next: the advance rule and what it undoes, replay, and where a phase draws from."""
