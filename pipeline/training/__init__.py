"""Losses, dataset and training loop."""
