"""`make scan`: finds known faults in the template, code, dependencies and repository."""
