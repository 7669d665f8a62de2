"""What a cluster does when a scenario fails: its jobs, and where its threads stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from operators.remote import ENDED
from operators.rest import Rest

STACK_LINES = 30
_TASK = re.compile(r"(?!OutputFlusher|Time Trigger).*\(\d+/\d+\)#\d+$")
_IDLE = "processMailsWhenDefaultActionUnavailable"


def doing(rest: Rest) -> list[str]:
    """Lines that tell of each job that has not ended; of the TaskManagers, the tasks' threads."""
    lines: list[str] = []
    for job in rest.get("/jobs/overview")["jobs"]:
        if job["state"] not in ENDED:
            lines += _job(rest, f"/jobs/{job['jid']}")
    for worker in rest.get("/taskmanagers")["taskmanagers"]:
        lines += _threads(rest.get(f"/taskmanagers/{worker['id']}/thread-dump"))
    return lines


def _job(rest: Rest, path: str) -> Iterator[str]:
    job, checkpoints = rest.get(path), rest.get(f"{path}/checkpoints")
    yield f"{job['name']} is {job['state']}; checkpoints: {checkpoints['counts']}"
    for made in checkpoints["history"][:1]:
        yield f"the newest one is {made['status']}: {made['num_acknowledged_subtasks']} tasks of it"
    for vertex in job["vertices"]:
        told = rest.get(f"{path}/vertices/{vertex['id']}/watermarks")
        watermarks = [each["value"] for each in told]
        metrics = vertex["metrics"]
        yield (
            f"  {vertex['name'][:60]}: {vertex['status']}, {metrics['read-records']} in, "
            f"{metrics['write-records']} out, watermarks {watermarks}"
        )


def _threads(dump: dict[str, Any]) -> Iterator[str]:
    """The tasks' own threads that do something, or wait for another than their next record."""
    for thread in dump["threadInfos"]:
        stack = thread["stringifiedThreadInfo"].splitlines()[:STACK_LINES]
        if _TASK.match(thread["threadName"]) and not any(_IDLE in line for line in stack):
            yield from stack
