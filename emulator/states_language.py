"""Step Functions' checks of a state machine's definition, by the States Language.

Codes: https://docs.aws.amazon.com/step-functions/latest/apireference/API_ValidateStateMachineDefinitionDiagnostic.html.
Rules: https://states-language.net and
https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html. AWS's messages are
known for repeated names, missing targets and unreachable states (users' reports; LocalStack's issue
11978 and cfn-lint's 4073 and 4074 quote them in full). The other messages are this module's; AWS
says that programs shouldn't rely on them. A task's Resource, paths and JSONata aren't checked.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

NAME_CHARACTERS_MAX = 80
GOING_ON = ("Task", "Pass", "Wait", "Parallel", "Map")
TYPES = (*GOING_ON, "Choice", "Succeed", "Fail")
CATCHING = ("Task", "Parallel", "Map")
NEEDED = {"Task": ("Resource",), "Parallel": ("Branches",), "Choice": ("Choices",)}
PROCESSORS = ("ItemProcessor", "Iterator")
SCHEMA = "SCHEMA_VALIDATION_FAILED"
TARGET = "MISSING_TRANSITION_TARGET"

Document = dict[str, Any]


class Problem(NamedTuple):
    """A reason why a definition is refused, and its place in the definition."""

    code: str
    message: str
    location: str

    def __str__(self) -> str:
        """Return the problem in Step Functions' form."""
        return f"{self.code}: {self.message} at {self.location}"


class Level(NamedTuple):
    """States that may name each other as next: those of a machine, a map or a branch."""

    definition: Document
    location: str


class Pairs(dict[str, Any]):
    """A JSON object, with the names that it has more than once."""

    repeated: tuple[str, ...] = ()


def problems(text: str) -> list[Problem]:
    """Return all reasons why Step Functions refuses a definition; none if it is valid."""
    try:
        definition = json.loads(text, object_pairs_hook=pairs)
    except ValueError as error:
        return [Problem("INVALID_JSON_DESCRIPTION", str(error), "/")]
    if not isinstance(definition, dict):
        return [Problem(SCHEMA, "The definition should be an object", "/")]
    all_levels = list(levels(Level(definition, "")))
    malformed = [problem for level in all_levels for problem in form_problems(level)]
    return malformed or [
        *repeated_names(all_levels),
        *(p for level in all_levels for p in transition_problems(level)),
    ]


def refusal(text: str) -> str:
    """Return the message of InvalidDefinition for a definition; empty if it is valid."""
    listed = ", ".join(str(problem) for problem in problems(text))
    return f"Invalid State Machine Definition: '{listed}'" if listed else ""


def pairs(members: list[tuple[str, Any]]) -> Pairs:
    """Return a JSON object made of its members."""
    made = Pairs(members)
    counts = Counter(name for name, _ in members)
    made.repeated = tuple(name for name, times in counts.items() if times > 1)
    return made


def states_of(level: Level) -> dict[str, Document]:
    """Return the states of a level that are objects."""
    states = level.definition.get("States")
    if not isinstance(states, dict):
        return {}
    return {name: state for name, state in states.items() if isinstance(state, dict)}


def levels(level: Level) -> Iterator[Level]:
    """Return a level and all levels nested in it."""
    yield level
    for name, state in states_of(level).items():
        location = f"{level.location}/States/{name}"
        nested = [(key, state.get(key)) for key in PROCESSORS]
        branches = state.get("Branches")
        if isinstance(branches, list):
            nested += [(f"Branches[{place}]", branch) for place, branch in enumerate(branches)]
        for key, definition in nested:
            if isinstance(definition, dict):
                yield from levels(Level(definition, f"{location}/{key}"))


def form_problems(level: Level) -> Iterator[Problem]:
    """Return the fields of a level that are missing or have the wrong type."""
    states = level.definition.get("States")
    if not isinstance(level.definition.get("StartAt"), str):
        yield Problem(SCHEMA, "The field 'StartAt' is required", f"{level.location}/StartAt")
    if not isinstance(states, dict) or not states:
        yield Problem(SCHEMA, "The field 'States' should be non-empty", f"{level.location}/States")
        return
    for name, state in states.items():
        location = f"{level.location}/States/{name}"
        if not 0 < len(name) <= NAME_CHARACTERS_MAX:
            message = f"A name has 1 to {NAME_CHARACTERS_MAX} characters: {name}"
            yield Problem("INVALID_STATE_NAME", message, location)
        if not isinstance(state, dict):
            yield Problem(SCHEMA, "A state should be an object", location)
            continue
        for message in state_problems(state):
            yield Problem(SCHEMA, message, location)


def state_problems(state: Document) -> Iterator[str]:
    """Return messages for fields that a state lacks or may not have."""
    kind = state.get("Type")
    if kind not in TYPES:
        yield f"The field 'Type' should be one of {', '.join(TYPES)}"
        return
    if kind in GOING_ON and ("Next" in state) == (state.get("End") is True):
        yield "Exactly one of the fields 'Next' and 'End' is required"
    if kind not in GOING_ON:
        yield from (
            f"The field '{key}' is not supported" for key in ("Next", "End") if key in state
        )
    if kind not in CATCHING:
        unknown = [key for key in ("Retry", "Catch") if key in state]
        yield from (f"The field '{key}' is not supported" for key in unknown)
    for key in NEEDED.get(kind, ()):
        if not state.get(key):
            yield f"The field '{key}' is required"
    if kind == "Map" and not any(state.get(key) for key in PROCESSORS):
        yield f"The field '{PROCESSORS[0]}' is required"
    for key in ("Choices", "Catch"):
        rules = state.get(key, [])
        if not isinstance(rules, list) or not all(
            isinstance(rule, dict) and isinstance(rule.get("Next"), str) for rule in rules
        ):
            yield f"The field '{key}' should be a list of rules with a 'Next'"


def repeated_names(all_levels: list[Level]) -> Iterator[Problem]:
    """Return names of several states; a name must be unique in the machine, with nested levels."""
    seen: set[str] = set()
    for level in all_levels:
        states = level.definition["States"]
        for name in states:
            if name in seen or name in states.repeated:
                location = f"{level.location}/States/{name}"
                message = f"Duplicate State name: {name}"
                yield Problem("DUPLICATE_STATE_NAME", message, location)
            seen.add(name)


def transition_problems(level: Level) -> Iterator[Problem]:
    """Return missing targets and unreachable states of a level, and a missing end state."""
    states, reached = states_of(level), set()
    for target, location in targets(level):
        reached.add(target)
        if target not in states:
            yield Problem(TARGET, f"Missing 'Next' target: {target}", location)
    for name in states:
        if name not in reached:
            location = f"{level.location}/States/{name}"
            yield Problem(TARGET, f'State "{name}" is not reachable.', location)
    if not any(
        state.get("End") or state["Type"] in ("Succeed", "Fail") for state in states.values()
    ):
        yield Problem("MISSING_END_STATE", "No state ends it", f"{level.location}/States")


def targets(level: Level) -> Iterator[tuple[str, str]]:
    """Return the states that a level's transitions name, each with the place of the name."""
    yield level.definition["StartAt"], f"{level.location}/StartAt"
    for name, state in states_of(level).items():
        location = f"{level.location}/States/{name}"
        for key in ("Next", "Default"):
            if key in state:
                yield str(state[key]), f"{location}/{key}"
        for key in ("Choices", "Catch"):
            for place, rule in enumerate(state.get(key, [])):
                yield rule["Next"], f"{location}/{key}[{place}]/Next"
