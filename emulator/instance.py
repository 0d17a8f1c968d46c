"""The folder of an embedded AWS: its lock, process, ports, logs and temporary files.

Everything that it writes is in its folder, so two of them share nothing, and removing the folder
leaves nothing behind.
"""

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

REGION = "us-east-1"


@dataclass
class State:
    """What others need to know of a running one; kept in its `state.json`."""

    pid: int = 0
    port: int = 0
    mqtt_port: int = 0
    region: str = REGION
    access_key: str = ""
    secret_key: str = ""
    """Those of the account's root, in this instance alone."""


@dataclass(frozen=True)
class Instance:
    """The folder of one instance."""

    name: str
    folder: Path

    @property
    def endpoint(self) -> str:
        """Address of the embedded AWS."""
        return f"http://127.0.0.1:{self.load().port}"

    def log(self, tool: str) -> Path:
        """Return the path of a tool's log."""
        return self.folder / f"{tool}.log"

    def is_running(self) -> bool:
        """Tell whether the instance's embedded AWS is alive: it holds the folder's lock."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def create(self) -> None:
        """Make the folder, empty; its owner alone may look into it, for it holds secrets."""
        self.remove()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(parents=True)
        self.folder.chmod(0o700)

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep_logs(self) -> None:
        """Remove everything but the logs and traces: not the secrets, nor half a gigabyte."""
        for each in self.folder.iterdir():
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            elif each.suffix != ".log" and each.stem != "traces":
                each.unlink(missing_ok=True)

    def load(self) -> State:
        """Read the state; raise FileNotFoundError when there is none."""
        known = {field.name for field in fields(State)}
        return State(**{name: value for name, value in self.stored().items() if name in known})

    def stored(self) -> dict[str, Any]:
        """Read all that the state's file holds; raise FileNotFoundError when there is none."""
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text("utf-8"))
        return found

    def save(self, state: State) -> None:
        """Write the state whole or not at all, readable by its owner alone."""
        unfinished = self.folder / "state.json.new"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=2)
        unfinished.replace(self.folder / "state.json")
