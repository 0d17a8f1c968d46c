"""A run and its check: watches it, checks every reading, reports; also poison and chaos."""
