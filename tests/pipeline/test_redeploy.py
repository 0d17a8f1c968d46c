"""`python -m local up` on a running instance: it deploys changes, and data stays."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.fleet.credentials import issue_certificates
from local.instance import Instance
from tests.added_metric import ROOT, copied_to, run
from tests.pipeline.deployed import Pipeline, at, bearer, becomes, minutes_ago, now_ms
from tests.pipeline.mqtt import connected
from tests.waiting import Patience

NAME = "redeployed"
DEVICE, WIRED, STEADY = "kept-1", "kept-wired", "kept-steady"
REDEPLOY_CPU_SECONDS_MAX = 15.0  # of `up` and its tools; a quiet machine needs 9 s in all
REDEPLOY_SECONDS_MAX = 60.0  # other tests run beside it, so the clock alone says little
WRONG = """\
Wrong:
  Type: AWS::Lambda::EventSourceMapping
  DependsOn: [AlertFunction, IngestFunction] # these are updated before, and must go back
  Properties:
    FunctionName: !Ref AggregateFunction
    EventSourceArn: !GetAtt ReadingsStream.Arn
    StartingPosition: LATEST
    BatchSize: 20000
"""
REASON, OTHER_REASON = "minutes after the pipeline's clock", "minutes after our clock"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of this checkout, to be edited while its instance is up."""
    copy = copied_to(tmp_path_factory.mktemp("checkout"))
    for tools in (".venv", ".tools"):
        (copy / tools).symlink_to(ROOT / tools)
    try:
        yield copy
    finally:
        local(copy, "down", "--name", NAME)


@pytest.fixture(scope="module")
def pipeline(checkout: Path) -> Iterator[Pipeline]:
    first = up(checkout)
    assert first.returncode == 0, first.stdout + first.stderr
    with Pipeline(Instance(NAME, checkout / ".local" / NAME)) as deployed:
        yield deployed


def local(checkout: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m local` with the copy's code."""
    line = [sys.executable, "-m", "local", *arguments]
    return subprocess.run(
        line, cwd=checkout, capture_output=True, text=True, timeout=300, check=False
    )


def up(checkout: Path) -> "subprocess.CompletedProcess[str]":
    return local(checkout, "up", "--name", NAME)


def changed(path: Path, old: str, new: str) -> None:
    before = path.read_text("utf-8")
    assert old in before
    path.write_text(before.replace(old, new), "utf-8")


def write_rule(checkout: Path, above: int) -> None:
    rule = f"name: overheating, metric: temperature, above: {above}, clears_below: 34"
    path = checkout / "rules.yaml"
    path.write_text(f"rules: [{{{rule}, severity: critical}}]", "utf-8")


def mappings(pipeline: Pipeline) -> dict[str, dict[str, str | None]]:
    """Return each mapping's progress, by its id and shard."""
    told = local(pipeline.instance.folder.parents[1], "mappings", "--name", NAME, "--json")
    return {
        each["uuid"]: {shard["shard_id"]: shard["position"] for shard in each["shards"]}
        for each in json.loads(told.stdout)["mappings"]
    }


@contextlib.contextmanager
def posting(pipeline: Pipeline, device: str) -> Iterator[list[int]]:
    """Let a device post a reading until it is taken, then the next one, and so on."""
    minute, stop, taken = minutes_ago(0), threading.Event(), list[int]()
    headers = bearer(pipeline.token(device))

    def post() -> None:
        while not stop.wait(0.3):
            document = at(minute, len(taken) / 1000, humidity=5.0)
            with contextlib.suppress(httpx.TransportError):
                answer = pipeline.http.post(
                    f"/devices/{device}/readings", json=[document], headers=headers
                )
                if answer.status_code == 202:
                    taken.append(document["recorded_at"])

    thread = threading.Thread(target=post)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def too_early(pipeline: Pipeline) -> str:
    """Return the API's reason for a reading from the future."""
    body = {"recorded_at": now_ms() + 3_600_000, "humidity": 1.0}
    answer = pipeline.post(f"/devices/{DEVICE}/readings", DEVICE, [body])
    return answer.text


def rules_of(pipeline: Pipeline) -> list[str]:
    """Return the rules of the device's open alerts."""
    return sorted(str(alert["rule"]) for alert in pipeline.alerts(DEVICE))


def children_cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended, with their own children."""
    used = os.times()
    return used.children_user + used.children_system


def test_a_changed_rule_and_changed_code_are_deployed_and_all_data_stays(
    checkout: Path, pipeline: Pipeline
) -> None:
    first = minutes_ago(6)
    certificate = issue_certificates(pipeline.instance, [WIRED])[WIRED]
    pipeline.send(DEVICE, at(first, 1, temperature=36.0), at(first, 2, temperature=36.5))
    with connected(pipeline, WIRED, certificate) as device:
        device.publish(f"telemetry/{WIRED}/readings", at(first, 1, humidity=5.0))
    becomes(lambda: pipeline.counts(DEVICE), {first: 2}, "the first readings")
    becomes(lambda: pipeline.counts(WIRED), {first: 1}, "the first one by MQTT")
    assert rules_of(pipeline) == []
    assert REASON in too_early(pipeline)
    before, ids, tokens = mappings(pipeline), pipeline.schema_ids(), pipeline.state.tokens

    write_rule(checkout, above=35)
    refused = up(checkout)
    assert refused.returncode == 1
    assert "template.yaml: is not what schemas/, rules.yaml and metrics.yaml say" in refused.stderr
    assert rules_of(pipeline) == []
    assert run(checkout, "-m", "contract").returncode == 0
    changed(checkout / "layers/telemetry/telemetry/domain/reading.py", REASON, OTHER_REASON)

    with posting(pipeline, STEADY) as taken:
        patience, before_cpu = Patience(REDEPLOY_SECONDS_MAX), children_cpu_seconds()
        answer = up(checkout)
        is_late, cpu_seconds = patience.is_over(), children_cpu_seconds() - before_cpu
    assert answer.returncode == 0, answer.stdout + answer.stderr
    names = "layers/telemetry/telemetry/domain/reading.py, rules.yaml, template.yaml"
    assert answer.stdout.splitlines()[-1] == f"  changed: {names}"
    assert not is_late
    assert 1.0 < cpu_seconds < REDEPLOY_CPU_SECONDS_MAX

    assert pipeline.counts(DEVICE) == {first: 2}
    assert OTHER_REASON in too_early(pipeline)
    pipeline.send(DEVICE, at(first, 3, temperature=35.5))
    becomes(lambda: rules_of(pipeline), ["overheating"], "an alert by the new rule")
    becomes(lambda: pipeline.counts(DEVICE), {first: 3}, "old and new readings in one window")
    with connected(pipeline, WIRED, certificate) as device:
        device.publish(f"telemetry/{WIRED}/readings", at(first, 2, humidity=5.0))
    becomes(lambda: pipeline.counts(WIRED), {first: 2}, "a reading by the old certificate")
    assert tokens.items() <= pipeline.state.tokens.items()
    assert pipeline.schema_ids() == ids

    after = mappings(pipeline)
    assert after.keys() == before.keys()
    for uuid, positions in before.items():
        for shard, position in positions.items():
            assert int(after[uuid][shard] or 0) >= int(position or 0), (uuid, shard)
    assert len(taken) > 5, "devices are served meanwhile"
    becomes(lambda: sum(pipeline.counts(STEADY).values()), len(taken), "all that was taken")


def test_sent_notices_are_shown_with_their_ways(pipeline: Pipeline) -> None:
    device, minute = "told-of", minutes_ago(2)
    checkout = pipeline.instance.folder.parents[1]
    pipeline.send(device, at(minute, 1, temperature=39.5))

    def shown() -> list[str]:
        lines = local(checkout, "notices", "--name", NAME).stdout.splitlines()
        return [line for line in lines if device in line]

    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ +opened +overheating +critical +told-of +39\.5 +"
    ways = {"SNS, EventBridge", "EventBridge, SNS"}
    (line,) = becomes(shown, lambda lines: any(way in "".join(lines) for way in ways), "a notice")
    assert re.match(pattern, line)
    assert line.rpartition("39.5")[2].strip() in ways
    told = local(checkout, "notices", "--name", NAME, "--json")
    found = [
        each for each in json.loads(told.stdout)["notices"] if each["notice"]["device_id"] == device
    ]
    assert sorted(each["by"] for each in found) == ["EventBridge", "SNS"]


def test_without_changes_nothing_is_deployed_again(checkout: Path, pipeline: Pipeline) -> None:
    stack = described(pipeline)
    answer = up(checkout)
    assert answer.returncode == 0
    assert answer.stdout.splitlines()[-1] == "  nothing has changed: it is as it was"
    assert described(pipeline) == stack


def described(pipeline: Pipeline) -> Any:
    (stack,) = pipeline.aws("cloudformation").describe_stacks(StackName="telemetry")["Stacks"]
    return stack


def test_after_a_failed_deployment_the_instance_is_as_before(
    checkout: Path, pipeline: Pipeline
) -> None:
    minute, state = minutes_ago(3), pipeline.state
    wrong = "".join(f"  {line}\n" for line in WRONG.splitlines())
    write_rule(checkout, above=50)
    assert run(checkout, "-m", "contract").returncode == 0
    changed(checkout / "template.yaml", "Resources:\n", f"Resources:\n{wrong}")
    answer = up(checkout)
    assert answer.returncode == 1
    assert re.search(r"Wrong: \w+_FAILED: .*less than or equal to 10000", answer.stderr)
    assert "the instance is as it was before" in answer.stderr
    assert pipeline.state == state
    assert described(pipeline)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    pipeline.send("kept-2", at(minute, 1, temperature=40.0))
    becomes(lambda: len(pipeline.alerts("kept-2")), 1, "an alert by the rule that was deployed")

    changed(checkout / "template.yaml", wrong, "")
    answer = up(checkout)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    pipeline.send("kept-3", at(minute, 1, temperature=40.0), at(minute, 2, temperature=51.0))
    (alert,) = becomes(lambda: pipeline.alerts("kept-3"), bool, "an alert by the next rule")
    assert alert["peak"] == 51.0
