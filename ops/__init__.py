"""What operators do to a deployed stack, on AWS or on this machine: `python -m ops`."""
