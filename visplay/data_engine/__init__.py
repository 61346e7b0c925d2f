"""Question-answer pairs from images without training: near-duplicates, rows on disk, their data card, exports."""
