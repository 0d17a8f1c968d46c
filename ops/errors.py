"""Errors of the operators' commands: each is a sentence for the person at the terminal."""


class OpsError(Exception):
    """A mistake or failure: the message says what was wrong, where, and what would be right."""
