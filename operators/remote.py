"""The jobs on a Flink cluster, by its REST: found, waited for, stopped, and where state is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError

from pyarrow.fs import FileInfo

from models.storage import Folder
from operators.rest import Rest

T = TypeVar("T")
ENDED = ("CANCELED", "FAILED", "FINISHED")
START_SECONDS = STOP_SECONDS = 300  # a busy machine takes minutes
REGISTER_SECONDS = 10  # in which TaskManagers must have come back after a leader was lost


class RemoteError(RuntimeError):
    """What a cluster did not do, and why."""


def newest(rest: Rest, name: str) -> dict[str, Any] | None:
    """The job of this name that was started last: jid, state, start-time, …; it may have ended."""
    jobs = [job for job in rest.get("/jobs/overview")["jobs"] if job["name"] == name]
    return max(jobs, key=lambda job: int(job["start-time"]), default=None)


def running(rest: Rest, name: str) -> str | None:
    """The id of the job of this name that has not ended."""
    job = newest(rest, name)
    return job["jid"] if job and job["state"] not in ENDED else None


def parallelism(rest: Rest, job_id: str) -> int:
    """How many slots a job takes; 0 while it initialises, for its tasks are not known yet."""
    vertices = rest.get(f"/jobs/{job_id}")["vertices"]
    return max((vertex["parallelism"] for vertex in vertices), default=0)


def free_slots(rest: Rest) -> int:
    """How many slots no job has."""
    return int(rest.get("/overview")["slots-available"])


def require_slots(rest: Rest, slots: int, held: int = 0) -> None:
    """Raise RemoteError if there are not so many slots, free or `held` by the job itself."""
    if not _polled(lambda: free_slots(rest) + held >= slots, REGISTER_SECONDS):
        room = free_slots(rest) + held
        raise RemoteError(f"expected {slots} free slots on {rest}; there are {room}.")


def wait_until_up(rest: Rest, job_id: str) -> None:
    """Wait until all tasks run; RemoteError if the job fails, or they do not in time."""

    def settled() -> str:
        job = rest.get(f"/jobs/{job_id}")
        tasks = job["status-counts"]
        up = 0 < tasks["RUNNING"] == sum(tasks.values())
        return str(job["state"]) if up or job["state"] in ENDED else ""

    state = _polled(settled, START_SECONDS)
    if not state or state in ENDED:
        why = failure(rest, job_id)[1].strip() or "nothing has failed yet"
        raise RemoteError(
            f"expected the tasks of job {job_id} to run within {START_SECONDS} s; "
            f"it is {(state or 'starting').lower()}: {why}"
        )


def failure(rest: Rest, job_id: str) -> tuple[int, str]:
    """When the job's newest failure was, epoch ms, and its stack trace; (0, "") if none was."""
    history = rest.get(f"/jobs/{job_id}/exceptions")["exceptionHistory"]["entries"]
    return (int(history[0]["timestamp"]), str(history[0]["stacktrace"])) if history else (0, "")


def stop(rest: Rest, job_id: str, folder: str) -> str:
    """Stop a job with a savepoint in a folder that all workers reach; returns the URI of it."""
    try:
        answer = rest.send("POST", f"/jobs/{job_id}/stop", {"targetDirectory": folder})
    except HTTPError as error:
        raise RemoteError(f"job {job_id} was not stopped: {_told(error)}") from None

    def taken() -> dict[str, Any]:
        told = rest.get(f"/jobs/{job_id}/savepoints/{answer['request-id']}")
        return told["operation"] if told["status"]["id"] == "COMPLETED" else {}

    operation = _polled(taken, STOP_SECONDS)
    if not operation:
        raise RemoteError(f"expected a savepoint of job {job_id} within {STOP_SECONDS} s")
    if "location" not in operation:
        cause = operation["failure-cause"]["stack-trace"]
        raise RemoteError(f"job {job_id} goes on, without a savepoint: {cause}")
    _wait_for_the_end(rest, job_id)
    return str(operation["location"])


def cancel(rest: Rest, job_id: str) -> None:
    """End a job at once; its last checkpoint stays."""
    rest.send("PATCH", f"/jobs/{job_id}?mode=cancel")
    _wait_for_the_end(rest, job_id)


def newest_checkpoint(folder: str, job_id: str) -> str | None:
    """The URI of the newest whole checkpoint of a job below `folder`, None if there is none."""
    place, prefix = Folder.at(folder) / job_id, "chk-"
    return _newest(place, prefix, lambda whole: int(_named(whole).removeprefix(prefix)))


def newest_savepoint(folder: str, job_id: str) -> str | None:
    """The URI of the newest whole savepoint of a job in `folder`, None if there is none."""
    return _newest(Folder.at(folder), f"savepoint-{job_id[:6]}-", lambda whole: whole.mtime_ns)


def _newest(place: Folder, prefix: str, age: Callable[[FileInfo], int]) -> str | None:
    """The URI of the newest folder that is so named and whole: its metadata are written last."""
    files = place.infos(recursive=True)
    whole = [each for each in files if each.base_name == "_metadata"]
    named = [each for each in whole if _named(each).startswith(prefix)]
    if not named:
        return None
    path = max(named, key=age).path.rpartition("/")[0]
    return Folder(place.files, path, place.given).uri


def _named(metadata: FileInfo) -> str:
    return str(metadata.path.split("/")[-2])


def _wait_for_the_end(rest: Rest, job_id: str) -> None:
    if not _polled(lambda: rest.get(f"/jobs/{job_id}")["state"] in ENDED, STOP_SECONDS):
        raise RemoteError(f"expected job {job_id} to end within {STOP_SECONDS} s")


def _polled(answer: Callable[[], T], seconds: float) -> T | None:
    """The first true answer, None where there is none in time.

    Nobody need answer at any one moment: Flink may be busy, or elect a leader. A command that gave
    up then would leave its work half done. RemoteError where Flink refuses to answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := answer():
                return found
        except HTTPError as error:
            if error.code < 500:
                raise RemoteError(f"{error.url}: {_told(error)}") from None
        except (OSError, HTTPException):
            pass
        if time.monotonic() > deadline:
            return None
        time.sleep(0.3)


def _told(error: HTTPError) -> str:
    try:
        return str(json.load(error)["errors"][0])
    except (ValueError, KeyError, IndexError):
        return str(error)
