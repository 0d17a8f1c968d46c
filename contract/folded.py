"""Long text in a template: YAML's folded scalars, which join lines to one."""

LINE = 100  # characters at most in a line that can be broken


def wrapped(text: str, indent: int) -> list[str]:
    """Return a text as lines of a folded scalar, broken at single spaces only."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        is_single_space = word and lines[-1] and not lines[-1].endswith(" ")
        if indent + len(longer) > LINE and is_single_space:
            lines.append(word)
        else:
            lines[-1] = longer
    return [f"{' ' * indent}{line}" for line in lines]
