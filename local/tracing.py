"""Shows the path of one request through the functions, from their X-Ray segments."""

import json
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from local.errors import LocalError
from local.instance import Instance
from local.values import duration_text

TRACE_ID_PATTERN = re.compile(r"1-[0-9a-f]{8}-[0-9a-f]{24}")

Segment = dict[str, Any]


def show_trace(instance: Instance, trace_id: str, console: Console) -> int:
    """Print the trace, and the traces that continue it."""
    if not TRACE_ID_PATTERN.fullmatch(trace_id):
        raise LocalError(
            f"'{trace_id}' isn't a trace id: write it like 1-6920a2b3-0123456789abcdef01234567"
        )
    related = [segment for segment in segments(instance) if trace_id in json.dumps(segment)]
    if not related:
        raise LocalError(
            f"there is no trace {trace_id}; instance '{instance.name}' keeps the newest traces"
        )
    begun = min(segment["start_time"] for segment in related)
    tree = Tree(f"[bold]{trace_id}[/]", highlight=False)
    for segment in sorted(related, key=lambda segment: float(segment["start_time"])):
        add_segment(tree, segment, begun)
    console.print(tree)
    return 0


def segments(instance: Instance) -> Iterator[Segment]:
    """Return the segments in the instance's folder, oldest first."""
    for name in ("traces.older", "traces.jsonl"):
        path = instance.folder / name
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                yield json.loads(line)


def add_segment(tree: Tree, segment: Segment, begun: float) -> None:
    """Add a segment and its subsegments, each with its start, duration and annotations."""
    after = duration_text(segment["start_time"] - begun)
    took = duration_text(segment.get("end_time", segment["start_time"]) - segment["start_time"])
    notes = " ".join(f"{name}={value}" for name, value in segment.get("annotations", {}).items())
    branch = tree.add(
        f"{escape(segment['name'])} [dim]+{after}, {took}[/] {escape(notes)}", highlight=False
    )
    for child in segment.get("subsegments", []):
        add_segment(branch, child, begun)
