"""What a function tells of itself: whose trace it is on."""

import pytest
from telemetry.aws.observe import current_trace_id


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1", True),
        ("Parent=53995c3f42cd8ad8;Root=1-5759e988-bd862e3fe1be46a994272793", True),
        ("Root=1-5759e988-bd862e3fe1be46a994272793", True),
        ("Self=1-1;Sampled=0", False),
        # the stream takes no such id: a reading stamped with it would end in quarantine
        ("Root=a caller's own;Sampled=1", False),
        ("Root=1-5759e988-bd862e3fe1be46a994272793\n", False),
        ("Root=", False),
        ("garbled", False),
        ("", False),
        (None, False),
    ],
)
def test_the_trace_of_an_invocation_is_the_root_of_its_header(
    header: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("_X_AMZN_TRACE_ID", raising=False)
    if header is not None:
        monkeypatch.setenv("_X_AMZN_TRACE_ID", header)
    trace_id = "1-5759e988-bd862e3fe1be46a994272793"
    assert current_trace_id() == (trace_id if expected else None)
