"""Pairs in the formats of other tools."""
