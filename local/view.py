"""Prints the steps of a local run and its errors, to a terminal or a log."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from emulator.errors import EmulatorError, StepFailed
from local.values import duration_text

NAME_WIDTH = 14
NOTE_WIDTH = 62
LONG_SECONDS = 15.0


class Steps:
    """Prints a line for each step, with a note and the seconds that it took."""

    def __init__(self, console: Console) -> None:
        """Print to `console`."""
        self.console = console
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def step(self, name: str, note: str) -> Iterator[None]:
        """Show that a step is going on, then that it is done."""
        started = time.monotonic()
        with self.going_on(name, note):
            yield
        self.done(name, note, time.monotonic() - started)

    @contextmanager
    def going_on(self, name: str, note: str = "") -> Iterator[None]:
        """Show a step as going on: in a terminal until it ends, in a log once, if it is long."""
        text = f"{name}: {escape(note)}" if note else name
        if self.console.is_terminal:
            with self.console.status(text):
                yield
            return
        notice = threading.Timer(
            LONG_SECONDS, self.console.print, [f"… {text}"], {"highlight": False}
        )
        notice.daemon = True
        notice.start()
        try:
            yield
        finally:
            notice.cancel()

    def done(self, name: str, note: str, seconds: float) -> None:
        """Show that a step is done."""
        self.seconds[name] = round(seconds, 3)
        text = f"{name:<{NAME_WIDTH}}{escape(note):<{NOTE_WIDTH}}"
        took = f"[dim]{duration_text(seconds):>8}[/]"
        self.console.print(f"[green]✓[/] {text} {took}", highlight=False)

    def until(self, moment: float) -> float:
        """Return the seconds from the first step to a moment of the monotonic clock."""
        return moment - self._started


def show_error(console: Console, error: EmulatorError) -> None:
    """Show an error's message; for a tool that failed, also its last lines and its log's path."""
    console.print(f"[red]✗[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    if isinstance(error, StepFailed):
        for line in error.tail:
            console.print(f"  [dim]│[/] {escape(line)}", highlight=False, soft_wrap=True)
        if error.log.exists():
            console.print(f"  whole log: {escape(str(error.log))}", highlight=False, soft_wrap=True)
