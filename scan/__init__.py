"""`make scan`: known faults in the template, the code, the dependencies and the repository."""
