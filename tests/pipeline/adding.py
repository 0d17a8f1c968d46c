"""`make metric`: adds a metric and a rule on it to a copy of the repository, and deploys it.

Only a schema version and a rule are written by hand. A device then posts the metric: a window has
it, an alert of the rule is open, and `ingest` has the id that the registry gave the version.
"""

import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from emulator.errors import StepFailed
from local.instance import unused
from local.session import brought_up, raise_on_terminate
from local.view import Steps
from tests.added_metric import ROOT, add_metric, copied_to, run
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago

DEVICE = "bearing-1"
LIMIT_MM_S = 7.1  # of tests/added_metric.py's rule


def main() -> int:
    """Make the copy and deploy it with its own code; return 0 if the metric arrived."""
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        copy = copied_to(Path(folder))
        for tools in (".venv", ".tools"):
            (copy / tools).symlink_to(ROOT / tools)
        add_metric(copy)
        made = run(copy, "-m", "contract")
        sys.stdout.write(made.stdout + made.stderr)
        if made.returncode:
            return 1
        code = run_inside(copy)
    sys.stdout.write(f"{time.monotonic() - started:.0f} s in all\n")
    return code


def run_inside(copy: Path) -> int:
    """Run `inside` with the copy's own code."""
    line = [sys.executable, "-m", "tests.pipeline.adding", "inside"]
    return subprocess.run(line, cwd=copy, timeout=300, check=False).returncode


def inside() -> int:
    """Deploy this repository, post the metric, and wait for its window and alert."""
    instance = unused("metric")
    try:
        with brought_up(instance, Steps(Console(file=StringIO())), {}) as aws:
            try:
                with Pipeline(instance) as pipeline:
                    follow(pipeline)
            finally:
                aws.stop()
    except StepFailed as error:
        sys.stderr.write("\n".join([str(error), *error.tail]) + "\n")
        return 1
    finally:
        instance.remove()
    return 0


def follow(pipeline: Pipeline) -> None:
    """Post a breach of the new rule, and wait for its window and its alert."""
    minute = minutes_ago(3)
    pipeline.send(DEVICE, at(minute, 1, wobble=2.0), at(minute, 2, wobble=LIMIT_MM_S + 1))

    def window() -> object:
        return pipeline.windows(DEVICE).get(minute, {}).get("metrics", {}).get("wobble")

    found = becomes(window, bool, "the window of the new metric")
    sys.stdout.write(f"window: wobble {found}\n")
    (alert,) = becomes(lambda: pipeline.alerts(DEVICE), bool, "the alert of the new rule")
    sys.stdout.write(f"alert: {alert['rule']}, peak {alert['peak']}\n")
    name = f"{pipeline.state.stack}-ingest"
    configured = pipeline.aws("lambda").get_function_configuration(FunctionName=name)
    *_, newest = configured["Environment"]["Variables"]["READING_SCHEMA_IDS"].split(",")
    version = pipeline.aws("glue").get_schema_version(SchemaVersionId=newest)["VersionNumber"]
    sys.stdout.write(f"registry: version {version}\n")


if __name__ == "__main__":
    raise_on_terminate()
    sys.exit(inside() if sys.argv[1:] == ["inside"] else main())
