"""`make ablations`: the grid of conf/ablations.yaml."""
