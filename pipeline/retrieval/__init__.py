"""Chunks, and a score of each chunk for a question."""
