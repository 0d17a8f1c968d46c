"""The contracts in `schemas/`: checks that a version may follow the others, and generated files.

`make schemas` checks and writes; `make schemas ARGS=--check` only tells.
"""
