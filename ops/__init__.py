"""Operators' commands for a deployed stack, on AWS or on this machine: `python -m ops`."""
