"""Posted readings show as windows, latest readings and alerts, each once."""

import json

from local.fleet.reading import Reading
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago, shown
from tests.pipeline.notices import Notices


def test_readings_are_in_windows_and_in_the_latest_reading(pipeline: Pipeline) -> None:
    first, second = minutes_ago(10), minutes_ago(9)
    temperatures = [2, 4, 4, 4, 5, 5, 7, 9]  # mean 5; squares of the distances: 32, an 8th is 4
    readings = [at(first, 1 + 2 * index, temperature=t) for index, t in enumerate(temperatures)]
    pipeline.send(
        "windowed",
        *readings,
        at(second, 0, humidity=60.0),
        at(second, 59.999, humidity=40.0, pressure=1013.25),
    )
    becomes(lambda: pipeline.counts("windowed"), {first: 8, second: 2}, "windows")
    windows = pipeline.windows("windowed")
    of_8 = {"count": 8, "mean": 5.0, "min": 2.0, "max": 9.0, "stddev": 2.0, "last": 9.0}
    of_2 = {"count": 2, "mean": 50.0, "min": 40.0, "max": 60.0, "stddev": 10.0, "last": 40.0}
    of_1 = {"count": 1, "mean": 1013.25, "min": 1013.25, "max": 1013.25, "stddev": 0.0}
    assert windows[first]["metrics"] == {"temperature": of_8}
    assert windows[second]["metrics"] == {"humidity": of_2, "pressure": {**of_1, "last": 1013.25}}
    latest = {"recorded_at": shown(second + 59_999), "humidity": 40.0, "pressure": 1013.25}
    answer = pipeline.operator.device("windowed")
    assert answer["latest"] == latest
    assert answer["metrics"]["pressure"] == {
        "value": 1013.25,
        "recorded_at": shown(second + 59_999),
    }
    assert answer["searched"]["complete"] is True


def test_an_overheating_device_has_one_open_alert_and_its_notice_goes_out_once(
    pipeline: Pipeline, notices: Notices
) -> None:
    minute = minutes_ago(5)
    hot = [at(minute, 10, temperature=39.5), at(minute, 11, temperature=41.25)]
    not_hot = [at(minute, 9, temperature=38.0), at(minute, 13, temperature=37.0)]
    trace_id = pipeline.send("hot", *not_hot, *hot)["trace_id"]
    becomes(lambda: len(pipeline.alerts("hot")), 1, "an open alert")
    becomes(lambda: notices.counts("hot"), {"hot": (1, 1)}, "the notice")
    (notice,), _ = notices.of("hot")
    queue = pipeline.outputs["NoticesQueueUrl"]  # delivers at least once: so once more
    pipeline.aws("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps(notice))
    # an earlier breach that comes late, a higher peak, and the others again
    first_trace_id = pipeline.send("hot", *hot, at(minute, 2, temperature=40.0))["trace_id"]
    for _ in range(2):
        pipeline.send("hot", *hot, at(minute, 30, temperature=45.5))
    expected = {
        "device_id": "hot",
        "rule": "overheating",
        "severity": "critical",
        "region": pipeline.state.region,
        "episode": 1,
        "first_breach_at": shown(minute + 2_000),
        "last_breach_at": shown(minute + 30_000),
        "cleared_at": None,
        "ended_by": None,
        "previous_cleared_at": None,
        "peak": 45.5,
        "status": "open",
        "trace_id": first_trace_id,
    }
    becomes(lambda: pipeline.alerts("hot"), [expected], "the alert")
    notices.arrived_once("hot")
    for notice in [notice for way in notices.of("hot") for notice in way]:
        assert notice["notice_id"] == f"hot/overheating/{pipeline.state.region}/1/opened"
        assert (notice["change"], notice["severity"]) == ("opened", "critical")
        assert notice["first_breach_at"] == shown(minute + 10_000)
        assert notice["trace_id"] == trace_id


def test_a_recovered_device_is_cleared_once_and_overheats_again_under_another_number(
    pipeline: Pipeline, notices: Notices
) -> None:
    minute = minutes_ago(9)
    pipeline.send("cured", at(minute, 1, temperature=40.0), at(minute, 5, temperature=36.5))
    becomes(lambda: notices.counts("cured"), {"cured": (1, 1)}, "the notice that it opened")
    becomes(lambda: pipeline.counts("cured"), {minute: 2}, "the window")
    for _ in range(2):
        answer = pipeline.aws("lambda").invoke(FunctionName=f"{pipeline.state.stack}-sweep")
        assert "FunctionError" not in answer
    becomes(lambda: pipeline.alerts("cured"), [], "no open alert")
    (cleared,) = pipeline.alerts("cured", status="cleared")
    assert (cleared["cleared_at"], cleared["episode"]) == (shown(minute + 5_000), 1)
    becomes(lambda: notices.counts("cured"), {"cured": (2, 2)}, "the notice that it cleared")
    pipeline.send("cured", at(minute, 2, temperature=44.0), at(minute, 30, temperature=39.0))
    becomes(lambda: [found["episode"] for found in pipeline.alerts("cured")], [2], "the next one")
    becomes(lambda: notices.counts("cured"), {"cured": (3, 3)}, "its notice")
    changes = [notice["notice_id"].split("/")[-2:] for notice in notices.of("cured")[0]]
    assert sorted(changes) == [["1", "cleared"], ["1", "opened"], ["2", "opened"]]


def test_duplicates_and_late_readings_by_device_and_gateway_count_once(pipeline: Pipeline) -> None:
    minute, long_ago, last = minutes_ago(4), minutes_ago(26 * 60), minutes_ago(2)
    sent = [at(minute, second, temperature=20.0 + second) for second in (1, 2, 3)]
    by_gateway = [
        Reading("twice", document["recorded_at"], {"temperature": document["temperature"]})
        for document in sent
    ]
    pipeline.send("twice", sent[2], sent[0])
    pipeline.relay([*by_gateway, *by_gateway])  # and the same once more within a request
    pipeline.send("twice", *reversed(sent))
    pipeline.send("twice", at(long_ago, 1, temperature=5.0))  # late, after newer ones
    pipeline.relay([Reading("twice", long_ago + 1_000, {"temperature": 5.0})])
    pipeline.passed(last, "twice")
    assert pipeline.counts("twice") == {long_ago: 1, minute: 3, last: 1}
    temperature = pipeline.windows("twice")[minute]["metrics"]["temperature"]
    assert (temperature["mean"], temperature["last"]) == (22.0, 23.0)
    assert pipeline.operator.device("twice")["latest"]["recorded_at"] == shown(last)
