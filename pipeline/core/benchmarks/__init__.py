"""One module per benchmark: how its records become documents and examples."""
