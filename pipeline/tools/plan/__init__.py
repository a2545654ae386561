"""`make plan`: what a run will cost."""
