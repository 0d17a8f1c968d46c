"""The contracts in `schemas/`: whether a version may follow the others, and what derives from it.

`make schemas` checks and writes; `make schemas ARGS=--check` only tells.
"""
