"""The jobs on a Flink cluster: submitted by `python -m jobs NAME --target cluster`, then here."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, get_type_hints

import click
from pydantic import BaseModel, ConfigDict

from jobs.settings import SettingsError
from operators.configuration import state_folder
from operators.environment import Engine, checkpoints, pipeline_name, savepoints
from operators.remote import (
    RemoteError,
    cancel,
    newest,
    newest_checkpoint,
    newest_savepoint,
    parallelism,
    require_slots,
    running,
    wait_until_up,
)
from operators.remote import stop as stop_with_savepoint
from operators.rest import Rest
from operators.running import counters, repairing, summary
from operators.standalone import ClusterError, answering, default_directory, noted, rests

ELECTION_SECONDS = 60  # in which a standby must have taken over


class Submission(BaseModel):
    """What is remembered of a job that was left to a cluster, so that it can go on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: str
    job_id: str | None  # of the run whose checkpoint or savepoint is gone on from, before `state`
    settings: dict[str, Any]
    state: str | None = None  # savepoint or checkpoint: where it was stopped, or began from

    @property
    def engine(self) -> Engine:
        return Engine.model_validate(self.settings["engine"])

    def write(self) -> None:
        path = _notes() / f"{self.job}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1))


def submit(job: str, settings: Any, state: str | None = None) -> int:
    """Leave a job to its cluster, from `state` (a savepoint or checkpoint) if that is given."""
    try:
        rest = _rest(settings.engine)
        _require_room(rest, job, settings.engine.parallelism)
        options = settings.engine.options
        if state:
            options = options | {"execution.state-recovery.path": state}
        here = {"jobmanager": rest.address, "tls": rest.tls, "detached": True, "options": options}
        engine = settings.engine.model_copy(update=here)
        module = importlib.import_module(f"jobs.{job}")
        module.main(settings.model_copy(update={"engine": engine}))
        found = newest(rest, pipeline_name(job))
        assert found is not None
        dumped = settings.model_dump(mode="json")
        Submission(job=job, job_id=found["jid"], settings=dumped, state=state).write()
        wait_until_up(rest, found["jid"])
    except (RemoteError, ClusterError, OSError) as error:
        raise SettingsError(f"{job}: {error}") from None
    click.echo(f"{job} runs on {rest} as job {found['jid']}.")
    return 0


def _require_room(rest: Rest, job: str, slots: int) -> None:
    """Raise RemoteError if the job runs there already, or would wait for slots."""
    job_id = running(rest, pipeline_name(job))
    if job_id:
        raise RemoteError(
            f"job {job_id} runs already. `python -m jobs cluster stop {job} --savepoint` stops it."
        )
    require_slots(rest, slots)


def _rest(engine: Engine) -> Rest:
    """The REST of the cluster the job is for; RemoteError if none answers."""
    if engine.jobmanager:
        places, patience = [Rest(engine.jobmanager, engine.tls)], 0
    else:
        note = noted(default_directory()) or {"rest": [], "ha": False}
        places, patience = rests(note), ELECTION_SECONDS if note["ha"] else 0
    deadline = time.monotonic() + patience
    while (rest := answering(places)) is None and time.monotonic() < deadline:
        time.sleep(0.5)  # a leader was lost, and none is elected yet
    if rest is None:
        told = " or ".join(map(str, places))
        raise RemoteError(
            f"expected a Flink cluster{told and f' at {told}'}; none answers. "
            "Start one with ./scripts/cluster start, or name it: --set engine.jobmanager=host:port"
        )
    return rest


def _notes() -> Any:
    return state_folder() / "submitted"


def _submission(job: str) -> Submission:
    path = _notes() / f"{job}.json"
    if not path.exists():
        known = ", ".join(sorted(each.stem for each in _notes().glob("*.json"))) or "none"
        raise RemoteError(
            f"{job} was not submitted from here; known: {known}. "
            f"`python -m jobs {job} --target cluster` submits it."
        )
    return Submission.model_validate_json(path.read_text())


def _go_on(submission: Submission, slots: int | None = None) -> None:
    """Submit a job again with its settings, from where it was stopped or its last checkpoint."""
    job, engine = submission.job, submission.engine
    state = (submission.job_id and _left(engine, job, submission.job_id)) or submission.state
    if state is None:
        raise RemoteError(
            f"there is no savepoint or checkpoint of {job} to go on from; "
            f"`python -m jobs {job} --target cluster` starts it with empty windows."
        )
    engine = engine.model_copy(update={"parallelism": slots or engine.parallelism})
    kind: Any = get_type_hints(importlib.import_module(f"jobs.{job}").main)["settings"]
    settings = kind.model_validate(submission.settings | {"engine": engine.model_dump()})
    click.echo(f"{job} goes on from {state}")
    submit(job, settings, state)


def _left(engine: Engine, job: str, run: str) -> str | None:
    """Where a run was last; Flink deletes the checkpoints of one that ended with a savepoint."""
    folders = checkpoints(engine, job), savepoints(engine, job)
    return newest_checkpoint(folders[0], run) or newest_savepoint(folders[1], run)


def _running(submission: Submission) -> tuple[Rest, str]:
    """The REST and the id of a job; RemoteError if it does not run."""
    rest = _rest(submission.engine)
    job_id = running(rest, pipeline_name(submission.job))
    if job_id is None:
        raise RemoteError(f"{submission.job} does not run on {rest}.")
    return rest, job_id


def _stop(submission: Submission, savepoint: bool) -> Submission:
    """End the job; the submission with the savepoint, if one was taken."""
    job, (rest, job_id) = submission.job, _running(submission)
    if not savepoint:
        cancel(rest, job_id)
        return submission
    wait_until_up(rest, job_id)  # it may be starting again
    made = stop_with_savepoint(rest, job_id, savepoints(submission.engine, job))
    stopped = submission.model_copy(update={"job_id": None, "state": made})
    stopped.write()
    return stopped


def _explained(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except (RemoteError, ClusterError, SettingsError, OSError) as error:
            raise click.ClickException(str(error)) from None

    return run


@click.group()
def cluster() -> None:
    """The jobs that `python -m jobs NAME --target cluster` left to a Flink cluster."""


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="Answer with a JSON array.")
@_explained
def status(as_json: bool) -> None:
    """Tell of each job whether it runs, since when it must, and its counters."""
    rows: list[dict[str, Any]] = []
    for path in sorted(_notes().glob("*.json")):
        known = _submission(path.stem)
        rest = _rest(known.engine)
        found = newest(rest, pipeline_name(known.job))
        row = {"job": known.job, "state": found["state"] if found else "UNKNOWN", "rest": str(rest)}
        if found and (job_id := running(rest, pipeline_name(known.job))):
            slots = parallelism(rest, job_id)
            row |= {"job_id": job_id, "slots": slots, "counters": counters(rest, job_id)}
        rows.append(row)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        told = f"  {row['slots']} slots  {summary(row['counters'])}" if "slots" in row else ""
        click.echo(f"{row['job']}: {row['state'].lower()}{told}")
        if advice := repairing(row["job"], row.get("counters", {})):
            click.echo(f"{row['job']}: {advice}")


@cluster.command()
@click.argument("name")
@click.option("--savepoint", is_flag=True, help="Take a savepoint first: nothing is done twice.")
@_explained
def stop(name: str, savepoint: bool) -> None:
    """Stop a job; `resume` goes on from its savepoint, or else from its last checkpoint."""
    stopped = _stop(_submission(name), savepoint)
    click.echo(f"{name} stopped{f' with savepoint {stopped.state}' if savepoint else ''}.")


@cluster.command()
@click.argument("name")
@_explained
def resume(name: str) -> None:
    """Start a job again with the settings it had, from where it was stopped or has failed."""
    _go_on(_submission(name))


@cluster.command()
@click.argument("name")
@click.argument("slots", type=click.IntRange(1, 128))
@_explained
def rescale(name: str, slots: int) -> None:
    """Stop a job with a savepoint and let it go on with so many slots."""
    submission = _submission(name)
    rest, job_id = _running(submission)
    wait_until_up(rest, job_id)  # it may be starting again, and then nothing tells its slots
    require_slots(rest, slots, held=parallelism(rest, job_id))
    _go_on(_stop(submission, savepoint=True), slots)
