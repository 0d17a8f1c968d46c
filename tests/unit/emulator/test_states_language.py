"""The state machines that Step Functions refuses, and its messages."""

import json
from typing import Any

import pytest

from emulator import states_language

Document = dict[str, Any]
DONE: Document = {"Type": "Succeed"}


def machine(start: str = "A", **states: Document) -> Document:
    return {"StartAt": start, "States": states}


def passing(target: str) -> Document:
    return {"Type": "Pass", "Next": target}


def codes(definition: Document) -> list[str]:
    return [problem.code for problem in states_language.problems(json.dumps(definition))]


def test_a_valid_machine_has_no_problem() -> None:
    work = {"Type": "Task", "Resource": "arn", "End": True, "Catch": [{"Next": "B"}], "Retry": []}
    branches = [machine(A1=DONE), machine("A2", A2=DONE)]
    definition = machine(
        A={"Type": "Choice", "Choices": [{"Next": "Each"}], "Default": "Both"},
        Each={"Type": "Map", "ItemProcessor": machine("Work", Work=work, B=DONE), "Next": "Both"},
        Both={"Type": "Parallel", "Branches": branches, "Next": "Wait"},
        Wait={"Type": "Wait", "Seconds": 1, "Next": "Last"},
        Last={"Type": "Fail"},
    )
    definition["States"]["Both"]["Branches"][0]["StartAt"] = "A1"
    assert states_language.refusal(json.dumps(definition)) == ""


@pytest.mark.parametrize("key", ["ItemProcessor", "Iterator"])
def test_a_name_is_unique_in_the_whole_machine(key: str) -> None:
    work = {"Type": "Pass", "End": True}
    definition = machine(
        A={"Type": "Map", key: machine("Work", Work=work), "Next": "B"},
        B={"Type": "Map", key: machine("Work", Work=work), "End": True},
    )
    assert states_language.refusal(json.dumps(definition)) == (
        "Invalid State Machine Definition: 'DUPLICATE_STATE_NAME: Duplicate State name: Work "
        f"at /States/B/{key}/States/Work'"
    )


def test_a_nested_state_may_not_be_named_like_one_above_it_nor_in_another_branch() -> None:
    branches = [machine(A=DONE), machine("Other", Other=DONE), machine("Other", Other=DONE)]
    definition = machine(A={"Type": "Parallel", "Branches": branches, "End": True})
    assert [problem.location for problem in states_language.problems(json.dumps(definition))] == [
        "/States/A/Branches[0]/States/A",
        "/States/A/Branches[2]/States/Other",
    ]


def test_a_name_that_the_json_repeats_counts_twice() -> None:
    text = '{"StartAt": "A", "States": {"A": {"Type": "Succeed"}, "A": {"Type": "Fail"}}}'
    assert [each.code for each in states_language.problems(text)] == ["DUPLICATE_STATE_NAME"]


def test_missing_targets_and_unreachable_states_have_awss_messages() -> None:
    """The example of LocalStack's issue 11978, with the answer that AWS gave."""
    definition = machine(
        "pass1", pass1=passing("pass3"), pass2={"Type": "Pass", "End": True}
    )  # fmt: skip
    assert states_language.refusal(json.dumps(definition)) == (
        "Invalid State Machine Definition: 'MISSING_TRANSITION_TARGET: Missing 'Next' target: "
        'pass3 at /States/pass1/Next, MISSING_TRANSITION_TARGET: State "pass2" is not reachable. '
        "at /States/pass2'"
    )


def test_a_start_that_is_not_a_state_has_awss_message() -> None:
    """The example of cfn-lint's issue 4074, with the answer that AWS gave."""
    definition = machine("Not sure", **{"Pass One": passing("Success"), "Success": DONE})
    assert states_language.refusal(json.dumps(definition)) == (
        "Invalid State Machine Definition: 'MISSING_TRANSITION_TARGET: Missing 'Next' target: "
        'Not sure at /StartAt, MISSING_TRANSITION_TARGET: State "Pass One" is not reachable. '
        "at /States/Pass One'"
    )


@pytest.mark.parametrize(
    ("ways", "location"),
    [
        ({"Choices": [{"Next": "No"}], "Default": "B"}, "/Choices[0]/Next"),
        ({"Choices": [{"Next": "B"}], "Default": "No"}, "/Default"),
        ({"Resource": "a", "Next": "B", "Catch": [{"Next": "No"}]}, "/Catch[0]/Next"),
    ],
)
def test_every_transition_leads_to_a_state(ways: Document, location: str) -> None:
    state = ways | {"Type": "Choice" if "Choices" in ways else "Task"}
    (problem,) = states_language.problems(json.dumps(machine(A=state, B=DONE)))
    assert (problem.code, problem.location) == ("MISSING_TRANSITION_TARGET", f"/States/A{location}")


def test_a_transition_to_a_state_of_another_level_is_refused() -> None:
    inner = machine("B", B=passing("C"))
    definition = machine(A={"Type": "Map", "ItemProcessor": inner, "Next": "C"}, C=DONE)
    assert "MISSING_TRANSITION_TARGET" in codes(definition)


def test_every_level_has_an_end() -> None:
    assert codes(machine(A=passing("B"), B=passing("A"))) == ["MISSING_END_STATE"]
    inner = machine("B", B=passing("B"))
    processed = {"Type": "Map", "ItemProcessor": inner, "End": True}
    assert codes(machine(A=processed)) == ["MISSING_END_STATE"]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({}, "'Type'"),
        ({"Type": "Sleep", "End": True}, "'Type'"),
        ({"Type": "Pass"}, "'Next' and 'End'"),
        ({"Type": "Pass", "End": False}, "'Next' and 'End'"),
        ({"Type": "Pass", "End": True, "Next": "A"}, "'Next' and 'End'"),
        ({"Type": "Task", "End": True}, "'Resource'"),
        ({"Type": "Map", "End": True}, "'ItemProcessor'"),
        ({"Type": "Parallel", "End": True, "Branches": []}, "'Branches'"),
        ({"Type": "Choice", "Choices": []}, "'Choices'"),
        ({"Type": "Choice", "Choices": [{"Variable": "$.a"}]}, "'Choices'"),
        ({"Type": "Choice", "Choices": [{"Next": "A"}], "End": True}, "'End'"),
        ({"Type": "Succeed", "Next": "A"}, "'Next'"),
        ({"Type": "Pass", "End": True, "Catch": []}, "'Catch'"),
        ({"Type": "Wait", "End": True, "Retry": []}, "'Retry'"),
        ("Pass", "object"),
    ],
)
def test_a_state_has_its_types_required_fields_and_no_unsupported_ones(
    state: Any, told: str
) -> None:
    (problem,) = states_language.problems(json.dumps(machine(A=state)))
    assert (problem.code, problem.location) == ("SCHEMA_VALIDATION_FAILED", "/States/A")
    assert told in problem.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "INVALID_JSON_DESCRIPTION"),
        ("", "INVALID_JSON_DESCRIPTION"),
        ("[]", "SCHEMA_VALIDATION_FAILED"),
        ('{"StartAt": "A", "States": {}}', "SCHEMA_VALIDATION_FAILED"),
        ('{"States": {"A": {"Type": "Succeed"}}}', "SCHEMA_VALIDATION_FAILED"),
        ('{"StartAt": "A", "States": ["A"]}', "SCHEMA_VALIDATION_FAILED"),
    ],
)
def test_a_definition_is_an_object_with_a_start_and_states(text: str, code: str) -> None:
    assert [problem.code for problem in states_language.problems(text)] == [code]


def test_a_states_name_has_at_most_80_characters() -> None:
    assert codes(machine("A" * 80, **{"A" * 80: DONE})) == []
    assert codes(machine("A" * 81, **{"A" * 81: DONE})) == ["INVALID_STATE_NAME"]
