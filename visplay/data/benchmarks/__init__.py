"""Benchmarks: their tables, sources, downloads and lock."""
