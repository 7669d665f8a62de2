"""The Python function of a job raises, or its worker aborts."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from operators.remote import failure, free_slots
from tests.faults.run import RUNS, Run, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import python_workers, stage
from tests.kafka import PATIENCE_S, wait_for
from tests.shopping import STARTER

TRIES = 3  # restarts without a bundle


@scenario()
def udf_exception(ground: Ground) -> Figures:
    """The Python function raises again and again: the job goes on as soon as it does not.

    An event or a registry cannot make it raise: what is wrong with them is told, and the function
    goes on. It raises where it is opened without a sound bundle. So the bundle is taken away and
    the function opened anew, because its worker aborts as native code does that finds itself
    broken, or because its TaskManager is killed; then the bundle comes back.
    """
    figures: Figures = {}
    bundle = Path(shutil.copytree(STARTER, ground.folder / "bundle"))
    with stage(ground) as ours:
        for profile, delivery in RUNS:
            name, where = f"raising-{profile}", f"bundle={bundle}"
            with run(ours, name, profile, delivery, where) as recommend:
                crash = _abort if profile == "throughput" else _kill
                seconds = _without(bundle, recommend, crash)
                ground.say(f"{profile}: lists again {seconds:.1f} s after the bundle was back")
                told = {"restarts": recommend.failures(), "seconds": round(seconds, 1)}
                figures[profile] = recommend.verify() | told
            folder = ours.cluster.directory
            wait_for(lambda: not python_workers(folder), 60, "the end of the workers")  # noqa: B023
    return figures


def _without(bundle: Path, recommend: Run, crash: Callable[[Run], object]) -> float:
    """Crash while there is no bundle; seconds from its return until lists come again."""
    workers = len(python_workers(recommend.stage.cluster.directory))
    before, away = recommend.failures(), bundle.with_name("away")
    bundle.rename(away)
    try:
        crash(recommend)
        wait_for(lambda: _misses(recommend, bundle), PATIENCE_S, "it to say what it misses")
        tried = before + 1 + TRIES
        wait_for(lambda: recommend.failures() >= tried, PATIENCE_S, f"{TRIES} tries")
    finally:
        away.rename(bundle)
    began = time.monotonic()
    recommend.goes_on()
    seconds = time.monotonic() - began
    folder, what = recommend.stage.cluster.directory, f"{workers} Python workers, as before"
    wait_for(lambda: len(python_workers(folder)) == workers, 60, what)  # the last try's are ending
    return seconds


def _misses(recommend: Run, bundle: Path) -> bool:
    """Whether the newest failure names the bundle."""
    return str(bundle) in failure(recommend.stage.rest, recommend.job_id)[1]


def _abort(recommend: Run) -> None:
    python_workers(recommend.stage.cluster.directory)[0].send_signal(signal.SIGABRT)


def _kill(recommend: Run) -> None:
    stage = recommend.stage
    stage.cluster.start_taskmanager()  # the one that takes over
    wait_for(lambda: free_slots(stage.rest) > 0, PATIENCE_S, "its slot")
    recommend.kill_taskmanager()
