"""The folder of an embedded AWS: its lock, process, ports, logs and temporary files.

An embedded AWS writes only to its folder. So two of them share nothing, and removing the folder
removes everything.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from emulator.locks import is_locked

REGION = "us-east-1"


@dataclass
class State:
    """Facts about a running embedded AWS for other processes; stored in `state.json`."""

    pid: int = 0
    port: int = 0
    mqtt_port: int = 0
    region: str = REGION
    access_key: str = ""
    secret_key: str = ""
    """The access key of the account's root; each instance has its own."""


@dataclass(frozen=True)
class Instance:
    """The folder of one instance."""

    name: str
    folder: Path

    @property
    def endpoint(self) -> str:
        """The URL of the embedded AWS."""
        return f"http://127.0.0.1:{self.load().port}"

    def log(self, tool: str) -> Path:
        """Return the path of a tool's log."""
        return self.folder / f"{tool}.log"

    def is_running(self) -> bool:
        """Return whether the instance's embedded AWS is running: it holds the folder's lock."""
        return is_locked(self.folder / "lock")

    def create(self) -> None:
        """Make an empty folder. Only its owner may open it, because it has secrets."""
        self.remove()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(parents=True)
        self.folder.chmod(0o700)

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep_logs(self) -> None:
        """Remove everything except logs and traces: secrets, and up to half a gigabyte.

        Another command may remove the folder meanwhile.
        """
        for each in sorted(self.folder.glob("*")):
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            elif each.suffix != ".log" and each.stem != "traces":
                each.unlink(missing_ok=True)

    def load(self) -> State:
        """Return the state; raise FileNotFoundError if there is none."""
        known = {field.name for field in fields(State)}
        return State(**{name: value for name, value in self.stored().items() if name in known})

    def stored(self) -> dict[str, Any]:
        """Return all fields of the state file; raise FileNotFoundError if there is none."""
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text("utf-8"))
        return found

    def save(self, state: State) -> None:
        """Write the state atomically, readable only by its owner."""
        unfinished = self.folder / "state.json.new"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=2)
        unfinished.replace(self.folder / "state.json")
