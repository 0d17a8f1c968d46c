"""A run and its proof: watch it, check what became of each reading, report; poison and chaos."""
