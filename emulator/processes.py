"""The processes of a running instance, each with its role.

They are the embedded AWS and its children: the mappings' engine, the MQTT broker and the workers of
functions. A worker's program is in a folder that the emulator names after the function.
"""

import re
from contextlib import suppress
from typing import NamedTuple

import psutil

from emulator.instance import Instance

EMBEDDED_AWS = "embedded AWS"
ENGINE = "mapping engine"
BROKER = "MQTT broker"
WORKER_PATTERN = re.compile(r"/ministack-lambda-(?P<function>.+)-[^-/]+/_worker\.py$")
MODULES = {"emulator.mappings": ENGINE, "emulator.mqtt": BROKER}


class Running(NamedTuple):
    """A process and its role; a worker's role is the name of its function."""

    role: str
    process: psutil.Process

    @property
    def is_worker(self) -> bool:
        """Return whether it runs a function."""
        return self.role not in (EMBEDDED_AWS, *MODULES.values())


def processes_of(instance: Instance) -> list[Running]:
    """Return the processes that an instance has now; none if it has ended."""
    state = instance.load()
    found = []
    with suppress(psutil.NoSuchProcess):
        aws = psutil.Process(state.pid)
        found.append(Running(EMBEDDED_AWS, aws))
        for process in aws.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                role = role_of(process.cmdline())
                if role is not None:
                    found.append(Running(role, process))
    return found


def role_of(command: list[str]) -> str | None:
    """Return a process's role by its command line; None if it has none here."""
    for module, role in MODULES.items():
        if module in command:
            return role
    worker = WORKER_PATTERN.search(command[-1]) if command else None
    return worker["function"] if worker else None
