"""The table, the figures and the page."""
