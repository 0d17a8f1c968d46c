"""What Step Functions refuses in a state machine's definition, by the States Language.

The codes are those of
https://docs.aws.amazon.com/step-functions/latest/apireference/API_ValidateStateMachineDefinitionDiagnostic.html;
the rules are those of https://states-language.net and
https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html. AWS's wording is
known for repeated names, missing targets and states that are not reachable (aws/aws-sdk users'
reports; LocalStack's issue 11978 and cfn-lint's 4073 and 4074 have it whole); the rest is worded
here, and AWS says that nobody should rely on it. What a task's Resource may be, paths and JSONata
are not looked at.
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
    """Why a definition is refused, and where in it."""

    code: str
    message: str
    location: str

    def __str__(self) -> str:
        """Return it as Step Functions tells it."""
        return f"{self.code}: {self.message} at {self.location}"


class Level(NamedTuple):
    """States that may be each other's next: of a machine, a map's processor or a branch."""

    definition: Document
    location: str


class Pairs(dict[str, Any]):
    """A JSON object that knows which of its names were there more than once."""

    repeated: tuple[str, ...] = ()


def problems(text: str) -> list[Problem]:
    """Return all that Step Functions refuses a definition for; none of a good one."""
    try:
        definition = json.loads(text, object_pairs_hook=pairs)
    except ValueError as error:
        return [Problem("INVALID_JSON_DESCRIPTION", str(error), "/")]
    if not isinstance(definition, dict):
        return [Problem(SCHEMA, "The definition should be an object", "/")]
    found = list(levels(Level(definition, "")))
    malformed = [problem for level in found for problem in form_problems(level)]
    return malformed or [
        *repeated_names(found),
        *(p for level in found for p in way_problems(level)),
    ]


def refusal(text: str) -> str:
    """Return the message of the InvalidDefinition that a definition gets, or nothing."""
    found = problems(text)
    told = ", ".join(str(problem) for problem in found)
    return f"Invalid State Machine Definition: '{told}'" if found else ""


def pairs(members: list[tuple[str, Any]]) -> Pairs:
    """Make a JSON object of its members."""
    made = Pairs(members)
    counts = Counter(name for name, _ in members)
    made.repeated = tuple(name for name, times in counts.items() if times > 1)
    return made


def states_of(level: Level) -> dict[str, Document]:
    """The states of a level that are objects."""
    states = level.definition.get("States")
    if not isinstance(states, dict):
        return {}
    return {name: state for name, state in states.items() if isinstance(state, dict)}


def levels(level: Level) -> Iterator[Level]:
    """Return a level and all that are nested in it."""
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
    """What is missing in a level, or of the wrong kind."""
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
    """What a state lacks, or has and may not have."""
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


def repeated_names(found: list[Level]) -> Iterator[Problem]:
    """Names that several states have: each is unique in the whole machine, nested ones included."""
    seen: set[str] = set()
    for level in found:
        states = level.definition["States"]
        for name in states:
            if name in seen or name in states.repeated:
                location = f"{level.location}/States/{name}"
                message = f"Duplicate State name: {name}"
                yield Problem("DUPLICATE_STATE_NAME", message, location)
            seen.add(name)


def way_problems(level: Level) -> Iterator[Problem]:
    """Ways that lead nowhere within a level, states that no way leads to, and no end."""
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
    """The names of states that a level's ways lead to, each with where it says so."""
    yield level.definition["StartAt"], f"{level.location}/StartAt"
    for name, state in states_of(level).items():
        location = f"{level.location}/States/{name}"
        for key in ("Next", "Default"):
            if key in state:
                yield str(state[key]), f"{location}/{key}"
        for key in ("Choices", "Catch"):
            for place, rule in enumerate(state.get(key, [])):
                yield rule["Next"], f"{location}/{key}[{place}]/Next"
