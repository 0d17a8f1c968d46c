"""Runs the tests of AWS's behaviour, and writes the table of the results: `make conformance`."""

import sys

import pytest

from tests.conformance import table


class Outcomes:
    """Counts the tests that ran; a skipped test shows nothing."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)


def main() -> int:
    """Run the tests, and write the table if all passed."""
    outcomes = Outcomes()
    code = pytest.main(["-m", "as_aws", "--quiet", *sys.argv[1:]], plugins=[outcomes])
    if code or outcomes.skipped:
        sys.stderr.write(f"not written: exit code {int(code)}, skipped: {outcomes.skipped}\n")
        return 1
    document = table.DOCUMENT.read_text("utf-8")
    table.DOCUMENT.write_text(table.with_block(document, table.block(table.marked())), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
