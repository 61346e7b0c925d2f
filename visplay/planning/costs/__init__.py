"""Seconds, memory and network bytes of every stage on any number of GPUs: a few formulas, and a machine's rates."""
