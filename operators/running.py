"""Run a job until it ends or the user stops it, and read the counters it exposes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from types import FrameType
from typing import Any
from urllib.parse import quote

from pyflink.table import StatementSet, TableEnvironment
from rich.console import Console

from operators.accounting import COUNTERS, DROPPED, LOST
from operators.environment import Engine, mode_of
from operators.remote import failure
from operators.rest import Rest
from operators.standalone import NO_PYTHON

_NO_TASKMANAGER = "Flink has ended the TaskManager of this process; its log in {folder} says why"
_NO_INTERPRETER = (
    "Python cannot run in this process any more: a task was cancelled as it was set up"
)
# What Flink itself counts; told only where it has happened.
_OF_FLINK = {"failedCommittables": LOST, "numLateRecordsDropped": DROPPED}


def run(
    env: TableEnvironment,
    statements: StatementSet,
    job: str,
    engine: Engine,
    must_end: bool = False,
    once_up: Callable[[], None] | None = None,
) -> int:
    """Start the job, say where it runs, show its counters; return 0 when it ended well.

    The counters are told once more at the end, as they stood a second before or when stopped.
    Ctrl-C and SIGTERM cancel a job that runs inside this process; one that `must_end` by itself
    has then failed. So has any that cannot go on in this process. `once_up` is called when its
    tasks run. A job that is not to be waited for (`execution.attached`) is left to its cluster.
    """
    client = statements.execute().get_job_client()
    ended = client.get_job_execution_result()  # still answers when a local run's REST is gone
    options = env.get_config()
    address = f"{options.get('rest.address', '')}:{options.get('rest.port', '')}"
    rest = Rest(address, engine.tls)
    job_id = str(client.get_job_id())
    console = Console(stderr=True)
    mode = mode_of(engine)
    where = f"job {job_id} runs Python in {mode} mode; Flink's REST is {rest}"
    console.print(f"{job}: {where}", soft_wrap=True)
    if options.get("execution.attached", "true") == "false":
        return 0
    stopping = _on_stop_signals()
    if once_up is not None and _is_up(rest, job_id, ended, stopping):
        once_up()
    counts, lost = _watch(console, rest, job_id, job, engine, ended, stopping)
    if counts:
        console.print(f"{job}: {summary(counts)}", highlight=False, soft_wrap=True)
    if not ended.done():
        client.cancel().result()
        if lost:
            reason = f"failed: {lost}. Start the job again"
            console.print(f"{job}: {reason}", highlight=False, soft_wrap=True)
        return 1 if must_end or lost else 0
    problem = ended.exception()
    cancelled = "JobCancellationException" in str(problem)
    if problem is None or (cancelled and not must_end):
        return 0
    console.print(f"{job}: failed: {problem}", markup=False, highlight=False)
    return 1


def _is_up(rest: Rest, job_id: str, ended: Any, stopping: threading.Event) -> bool:
    """Wait until the tasks run; False if the job ended before, or is to stop."""
    while not ended.done() and not stopping.wait(0.2):
        with suppress(OSError, HTTPException):  # its REST is not up yet
            tasks = rest.get(f"/jobs/{job_id}")["status-counts"]
            if tasks["RUNNING"] and tasks["RUNNING"] + tasks["FINISHED"] == sum(tasks.values()):
                return True
    return False


def _watch(
    console: Console,
    rest: Rest,
    job_id: str,
    job: str,
    engine: Engine,
    ended: Any,
    stopping: threading.Event,
) -> tuple[dict[str, int], str]:
    """Show the counters, each restart and what was lost until the job has ended or is to stop.

    Returns the counters, and why a job of this process cannot go on; "" unless that ended it.
    """
    said, counts, last, lost, advice = 0, {}, False, "", ""
    with console.status(f"{job}: starting") as line:
        while not (ended.done() or last or lost):
            last = stopping.wait(1.0)
            try:
                status = str(rest.get(f"/jobs/{job_id}")["state"])
                counts = counters(rest, job_id)
                at, why = failure(rest, job_id)
                if at and engine.jobmanager is None:  # on a cluster another one may come
                    lost = beyond_repair(why, rest.get("/overview")["taskmanagers"])
            except (OSError, HTTPException):  # not up yet, too busy, or gone with its job
                continue
            if at > said:
                console.print(f"{job}: restarts: {root_cause(why)}", markup=False, highlight=False)
                said = at
            before, advice = advice, repairing(job, counts)
            if advice != before:
                console.print(f"{job}: {advice}", markup=False, highlight=False)
            line.update(f"{job}: {status.lower()}  {summary(counts)}")
    return counts, lost


def beyond_repair(why: str, taskmanagers: int) -> str:
    """Why a job that failed with this stack trace cannot go on in its process; "" if it can."""
    if NO_PYTHON in why:
        return _NO_INTERPRETER
    return "" if taskmanagers else _NO_TASKMANAGER.format(folder=os.environ["FLINK_LOG_DIR"])


def summary(counts: Mapping[str, int]) -> str:
    """The counters on one line; of feedback also which share of exposures found its list."""
    shown = [f"{name} {count:,}" for name, count in counts.items()]
    if counts.get("exposures"):
        shown.append(f"join_ratio {counts.get('joined', 0) / counts['exposures']:.4f}")
    return "  ".join(shown)


def counters(rest: Rest, job_id: str) -> dict[str, int]:
    """Sum the counters of streamrec's own functions over all subtasks of a job, by name."""
    sums: dict[str, int] = {}
    for vertex in rest.get(f"/jobs/{job_id}")["vertices"]:
        base = f"/jobs/{job_id}/vertices/{vertex['id']}/subtasks/metrics"
        found = [entry["id"] for entry in rest.get(base)]
        for name in found:
            short = name.rpartition(".")[2]
            short = _OF_FLINK.get(short, short)
            if short in COUNTERS:
                for entry in rest.get(f"{base}?get={quote(name)}&agg=sum"):
                    sums[short] = sums.get(short, 0) + round(entry["sum"])
    rare = _OF_FLINK.values()
    return {n: sums[n] for n in COUNTERS if n in sums and (sums[n] or n not in rare)}


def repairing(job: str, counts: Mapping[str, int]) -> str:
    """What to do about transactions that were lost; "" if none was."""
    if LOST not in counts:
        return ""
    return (
        f"the brokers gave up {counts[LOST]} transactions before they were committed: what they "
        f"held may be missing. `python -m jobs repair {job}` with the job's settings finds and "
        "writes it"
    )


def root_cause(stacktrace: str) -> str:
    """The last line that names a cause, of Java's stack trace or of Python's within it."""
    lines = [line.strip() for line in stacktrace.splitlines()]
    causes = [line for line in lines if line and not line.startswith(("at ", "...", "File "))]
    return causes[-1] if causes else stacktrace


def _on_stop_signals() -> threading.Event:
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopping
