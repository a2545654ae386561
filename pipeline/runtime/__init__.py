"""Settings, errors, the log of runs and experiment trackers: nothing in this room changes a result."""
