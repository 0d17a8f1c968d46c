"""An instance: an embedded AWS with the pipeline on it, in the folder `.local/<name>`."""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emulator import embedded
from emulator import instance as emulator_instance
from emulator.embedded import EmbeddedAws
from emulator.locks import is_locked, lock
from local.errors import LocalError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_NAME = "main"
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass
class State(emulator_instance.State):
    """The stored state of an instance, and of the stack that is deployed to it."""

    stack: str = "telemetry"
    api_url: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    is_deployed: bool = False
    parameters: dict[str, str] = field(default_factory=dict)
    """The template's parameters of the last deployment."""
    sources: dict[str, str] = field(default_factory=dict)
    """The digest of each file of the last deployment, by its name."""


@dataclass(frozen=True)
class Instance(emulator_instance.Instance):
    """The folder of one instance."""

    def load(self) -> State:
        """Read the state; raise LocalError if there is none."""
        try:
            return State(**self.stored())
        except FileNotFoundError:
            if self.is_being_brought_up():
                raise self.starting() from None
            raise LocalError(
                f"no instance '{self.name}' is up: start it with {up_command(self.name)}"
            ) from None

    @contextmanager
    def changing(self) -> Iterator[State]:
        """Yield the state for a change, and save it at the end. Other changes wait meanwhile."""
        with (self.folder / "state.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = self.load()
            yield state
            self.save(state)

    @contextmanager
    def brought_up_alone(self) -> Iterator[None]:
        """Lock the instance while it is brought up; raise LocalError if another command has it.

        The lock's file is beside the folder, because the folder is made anew.
        """
        self.folder.parent.mkdir(exist_ok=True)
        with locked(self._turn) as is_mine:
            if not is_mine:
                raise self.starting()
            yield

    @property
    def _turn(self) -> Path:
        """The file whose lock a command holds while it brings the instance up."""
        return self.folder.with_name(f".{self.name}.up")

    def is_being_brought_up(self) -> bool:
        """Return whether a command brings the instance up, or deploys to it, just now."""
        return is_locked(self._turn)

    def starting(self) -> LocalError:
        """Return the error for a command that needs the instance while it is brought up."""
        return LocalError(
            f"instance '{self.name}' is being brought up by another command: wait for its end"
        )

    def deployed(self) -> State:
        """Return the state; raise LocalError if the instance isn't running and deployed."""
        state = self.load()
        if not self.is_running():
            raise LocalError(
                f"instance '{self.name}' has ended: start it with {up_command(self.name)}"
            )
        if not state.is_deployed:
            raise LocalError(f"instance '{self.name}' isn't deployed yet: its `up` hasn't finished")
        return state


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a file's lock and remove the file at the end; yield False if another process has it."""
    with path.open("w") as file:
        try:
            lock(file.fileno())
            # The former holder may have removed the file, and another process locked a new one.
            is_mine = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except BlockingIOError:
            is_mine = False
        try:
            yield is_mine
        finally:
            if is_mine:
                path.unlink(missing_ok=True)


def state_of(aws: EmbeddedAws) -> State:
    """Return the first state of an instance, from its embedded AWS."""
    return State(**asdict(embedded.state_of(aws)))


def named(name: str, root: Path = ROOT) -> Instance:
    """Return the instance of that name; raise LocalError if the name isn't valid."""
    if not NAME_PATTERN.fullmatch(name):
        raise LocalError(
            f"--name: '{name}' isn't a name: use lower-case letters, digits and hyphens, at most 40"
        )
    return Instance(name, folder_of_instances(root) / name)


def folder_of_instances(root: Path = ROOT) -> Path:
    """Return the folder `.local`; if it is a link, the link's target.

    The SAM CLI writes paths relative to the real place of its build.
    """
    return (root / ".local").resolve()


def unused(prefix: str, root: Path = ROOT) -> Instance:
    """Return an instance with an unused name, so that several can run side by side."""
    return named(f"{prefix}-{secrets.token_hex(3)}", root)


def existing(root: Path = ROOT) -> list[Instance]:
    """Return the instances that have a folder, by name."""
    folders = sorted(folder_of_instances(root).glob("*/"))
    return [
        Instance(folder.name, folder) for folder in folders if NAME_PATTERN.fullmatch(folder.name)
    ]


def up_command(name: str) -> str:
    """Return the command that starts the instance."""
    return "`python -m local up`" if name == DEFAULT_NAME else f"`python -m local up --name {name}`"
