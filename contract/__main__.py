"""`make schemas`: check the contracts in schemas/ and write the files generated from them."""

import argparse
import sys
from pathlib import Path

from telemetry.domain.influx_mapping import load_mapping
from telemetry.errors import TelemetryError

from contract.derived import derive
from contract.evolution import check
from contract.versions import ContractBroken, load

ROOT = Path(__file__).resolve().parent.parent


def stale(root: Path, contents: dict[str, str]) -> list[str]:
    """Return the generated files that aren't as they should be."""
    return [name for name, text in contents.items() if current(root / name) != text]


def current(path: Path) -> str | None:
    """Return a file's present content, None if there is no file."""
    return path.read_text("utf-8") if path.exists() else None


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Check and write; return 0, or 1 with the mistakes on stderr."""
    parser = argparse.ArgumentParser(prog="make schemas", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is stale"
    )
    options = parser.parse_args(arguments)
    try:
        contracts = load(root)
        check(contracts)
        contents = derive(root, contracts)
        load_mapping((root / "influx.yaml").read_text("utf-8"))
    except (ContractBroken, TelemetryError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    old = stale(root, contents)
    for name in old:
        if options.check:
            sys.stderr.write(
                f"{name}: is not what schemas/, rules.yaml and metrics.yaml say; "
                "run `make schemas`\n"
            )
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(contents[name], "utf-8")
            sys.stdout.write(f"{name}: written\n")
    versions = ", ".join(f"{name} {len(each)}" for name, each in contracts.items())
    if not old:
        sys.stdout.write(f"schemas/ is as it should be, and what derives from it: {versions}\n")
    return 1 if old and options.check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
