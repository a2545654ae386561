"""Probes of the trained models."""
