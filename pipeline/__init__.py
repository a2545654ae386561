"""Focused learning: a staged, cached, reproducible pipeline (chunk, score, mask, train, evaluate, report)."""

import os

# Before torch is imported: its threads otherwise spin while they wait, and on a busy machine they take the processors
# from the threads that they wait for (benchmarks/busy.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
