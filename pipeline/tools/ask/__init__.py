"""A question over the user's own files, answered by the trained methods."""
