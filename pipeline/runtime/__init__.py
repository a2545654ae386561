"""Settings, errors and the log of runs: nothing in this room changes a result."""
