"""The device in C of docs/devices.md posts to the deployed pipeline."""

from pathlib import Path

from tests.c_device import compiled, run_device
from tests.pipeline.deployed import Pipeline, becomes


def test_a_reading_of_the_c_device_is_in_a_window(pipeline: Pipeline, tmp_path: Path) -> None:
    token = pipeline.token("in-c")
    result = run_device(compiled(tmp_path), "21.5 40\n", pipeline.state.api_url, "in-c", token)
    assert result.returncode == 0, result
    becomes(lambda: sum(pipeline.counts("in-c").values()), 1, "its window")
