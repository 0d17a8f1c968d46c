"""Readings, windows, rules, episodes and notices as values and functions: no AWS, no clock."""
