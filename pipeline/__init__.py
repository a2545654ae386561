"""Focused learning: a staged, cached, reproducible pipeline (chunk, score, mask, train, evaluate, report)."""
