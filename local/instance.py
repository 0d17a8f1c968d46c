"""An instance: an embedded AWS with the pipeline on it, and its folder `.local/<name>`.

Everything of an instance is in its folder (state, logs, build, temporary files), so two instances
share nothing, and removing the folder leaves nothing behind.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from local.errors import LocalError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_NAME = "main"
REGION = "us-east-1"
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass
class State:
    """What other commands need to know of an instance; kept in its `state.json`."""

    pid: int = 0
    port: int = 0
    mqtt_port: int = 0
    stack: str = "telemetry"
    region: str = REGION
    api_url: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    is_deployed: bool = False


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
        """Make the folder, empty; its owner alone may look into it, for it holds tokens."""
        self.remove()
        self.folder.parent.mkdir(exist_ok=True)
        (self.folder / "tmp").mkdir(parents=True)
        self.folder.chmod(0o700)

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def load(self) -> State:
        """Read the state; raise LocalError when there is none."""
        try:
            stored: dict[str, Any] = json.loads((self.folder / "state.json").read_text("utf-8"))
        except FileNotFoundError:
            raise LocalError(
                f"no instance '{self.name}' is up: start it with {up_command(self.name)}"
            ) from None
        return State(**stored)

    def save(self, state: State) -> None:
        """Write the state whole or not at all, readable by its owner alone."""
        unfinished = self.folder / "state.json.new"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=2)
        unfinished.replace(self.folder / "state.json")

    def deployed(self) -> State:
        """Return the state of a running, deployed instance; raise LocalError if it isn't one."""
        state = self.load()
        if not self.is_running():
            raise LocalError(
                f"instance '{self.name}' has ended: start it with {up_command(self.name)}"
            )
        if not state.is_deployed:
            raise LocalError(f"instance '{self.name}' isn't deployed yet: its `up` hasn't finished")
        return state


def named(name: str, root: Path = ROOT) -> Instance:
    """Return the instance of that name; raise LocalError when the name can't be a folder's."""
    if not NAME_PATTERN.fullmatch(name):
        raise LocalError(
            f"--name: '{name}' isn't a name: use lower-case letters, digits and hyphens, at most 40"
        )
    return Instance(name, root / ".local" / name)


def unused(prefix: str, root: Path = ROOT) -> Instance:
    """Return an instance with a name of its own, so that several can go side by side."""
    return named(f"{prefix}-{secrets.token_hex(3)}", root)


def existing(root: Path = ROOT) -> list[Instance]:
    """Return the instances that have a folder, by name."""
    folders = sorted((root / ".local").glob("*/"))
    return [
        Instance(folder.name, folder) for folder in folders if NAME_PATTERN.fullmatch(folder.name)
    ]


def up_command(name: str) -> str:
    """Return the command that starts the instance."""
    return "`python -m local up`" if name == DEFAULT_NAME else f"`python -m local up --name {name}`"
