"""Benchmarks: their tables, sources and downloads."""
