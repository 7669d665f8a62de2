"""The jobs on a Flink cluster, by its REST: found, waited for, stopped, and where state is."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.error import HTTPError

from models.storage import Folder
from operators import rest as flink

ENDED = ("CANCELED", "FAILED", "FINISHED")
START_SECONDS = STOP_SECONDS = 300  # a busy machine takes minutes
REGISTER_SECONDS = 10  # in which TaskManagers must have come back after a leader was lost


class RemoteError(RuntimeError):
    """What a cluster did not do, and why."""


def newest(rest: str, name: str) -> dict[str, Any] | None:
    """The job of this name that was started last: jid, state, start-time, …; it may have ended."""
    jobs = [job for job in flink.get(f"{rest}/jobs/overview")["jobs"] if job["name"] == name]
    return max(jobs, key=lambda job: int(job["start-time"]), default=None)


def running(rest: str, name: str) -> str | None:
    """The id of the job of this name that has not ended."""
    job = newest(rest, name)
    return job["jid"] if job and job["state"] not in ENDED else None


def parallelism(rest: str, job_id: str) -> int:
    """How many slots a job takes; 0 while it initialises, for its tasks are not known yet."""
    vertices = flink.get(f"{rest}/jobs/{job_id}")["vertices"]
    return max((vertex["parallelism"] for vertex in vertices), default=0)


def free_slots(rest: str) -> int:
    """How many slots no job has."""
    return int(flink.get(f"{rest}/overview")["slots-available"])


def require_slots(rest: str, slots: int, held: int = 0) -> None:
    """Raise RemoteError if there are not so many slots, free or `held` by the job itself."""
    deadline = time.monotonic() + REGISTER_SECONDS
    while (room := free_slots(rest) + held) < slots:
        if time.monotonic() > deadline:
            raise RemoteError(f"expected {slots} free slots on {rest}; there are {room}.")
        time.sleep(0.3)


def wait_until_up(rest: str, job_id: str) -> None:
    """Wait until all tasks run; RemoteError if the job fails, or they do not in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        job = flink.get(f"{rest}/jobs/{job_id}")
        tasks = job["status-counts"]
        if job["state"] in ENDED:
            break
        if tasks["RUNNING"] and tasks["RUNNING"] == sum(tasks.values()):
            return
        time.sleep(0.3)
    why = failure(rest, job_id)[1].strip() or "nothing has failed yet"
    raise RemoteError(
        f"expected the tasks of job {job_id} to run within {START_SECONDS} s; "
        f"it is {job['state'].lower()}: {why}"
    )


def failure(rest: str, job_id: str) -> tuple[int, str]:
    """When the job's newest failure was, epoch ms, and its stack trace; (0, "") if none was."""
    history = flink.get(f"{rest}/jobs/{job_id}/exceptions")["exceptionHistory"]["entries"]
    return (int(history[0]["timestamp"]), str(history[0]["stacktrace"])) if history else (0, "")


def stop(rest: str, job_id: str, folder: str) -> str:
    """Stop a job with a savepoint in a folder that all workers reach; returns the URI of it."""
    try:
        answer = flink.send("POST", f"{rest}/jobs/{job_id}/stop", {"targetDirectory": folder})
    except HTTPError as error:
        raise RemoteError(f"job {job_id} was not stopped: {_told(error)}") from None
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        taken = flink.get(f"{rest}/jobs/{job_id}/savepoints/{answer['request-id']}")
        if taken["status"]["id"] == "COMPLETED":
            if "location" in taken["operation"]:
                _wait_for_the_end(rest, job_id)
                return str(taken["operation"]["location"])
            cause = taken["operation"]["failure-cause"]["stack-trace"]
            raise RemoteError(f"job {job_id} goes on, without a savepoint: {cause}")
        time.sleep(0.3)
    raise RemoteError(f"expected a savepoint of job {job_id} within {STOP_SECONDS} s")


def cancel(rest: str, job_id: str) -> None:
    """End a job at once; its last checkpoint stays."""
    flink.send("PATCH", f"{rest}/jobs/{job_id}?mode=cancel")
    _wait_for_the_end(rest, job_id)


def newest_checkpoint(folder: str, job_id: str) -> str | None:
    """The URI of the newest whole checkpoint of a job below `folder`, None if there is none."""
    place = Folder.at(folder)
    found = [info.path for info in (place / job_id).infos(recursive=True)]
    whole = [path.rpartition("/")[0] for path in found if path.endswith("/_metadata")]
    numbers = {int(path.rpartition("/chk-")[2]): path for path in whole if "/chk-" in path}
    return Folder(place.files, numbers[max(numbers)], place.given).uri if numbers else None


def _wait_for_the_end(rest: str, job_id: str) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while flink.get(f"{rest}/jobs/{job_id}")["state"] not in ENDED:
        if time.monotonic() > deadline:
            raise RemoteError(f"expected job {job_id} to end within {STOP_SECONDS} s")
        time.sleep(0.2)


def _told(error: HTTPError) -> str:
    try:
        return str(json.load(error)["errors"][0])
    except (ValueError, KeyError, IndexError):
        return str(error)
