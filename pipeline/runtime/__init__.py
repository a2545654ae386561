"""Settings, errors, the log of runs, trackers, the names of methods and curves: no result depends on this room."""
