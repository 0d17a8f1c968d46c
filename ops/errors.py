"""Errors of the operators' commands: each is a sentence for the person at the terminal."""


class OpsError(Exception):
    """What was wrong, where, and what would be right."""
