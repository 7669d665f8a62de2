"""What an operator does in good order: rescale, stop and resume a job, stop a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable

from operators.remote import parallelism
from tests.faults.jobmanagers import Elected, restored_since
from tests.faults.run import RUNS, Run, moments, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import PATIENCE_S, wait_for

SLOTS = (1, 4)  # after two


@scenario()
def rescale(ground: Ground) -> Figures:
    """A job goes from two slots to one, and to four: nothing is doubled, no transaction hangs."""
    back = {}
    with (
        stage(ground, taskmanagers=2, slots=2) as ours,
        run(ours, "rescale", parallelism=2) as recommend,
    ):
        for slots in SLOTS:
            began = time.monotonic()
            ours.jobs("cluster", "rescale", "recommend", str(slots))
            assert parallelism(ours.rest, recommend.job_id) == slots
            recommend.goes_on()  # which it does not if a transaction of before hangs
            back[str(slots)] = round(time.monotonic() - began, 1)
            ground.say(f"lists again from {slots} slots after {back[str(slots)]} s")
        told = recommend.verify() | {"restarts": recommend.failures(), "seconds_to": back}
        recommend.stop()
    return told


@scenario()
def sigterm_drain(ground: Ground) -> Figures:
    """Job, TaskManager and cluster are stopped in good order: with a savepoint nothing is doubled.

    That holds at-least-once too: what came before the savepoint is never read again. A TaskManager
    that gets SIGTERM, and a cluster that is stopped, end without one: what they had answered since
    the last checkpoint is answered again, and then exactly-once delivery hides it.
    """
    figures: Figures = {}
    cluster = Elected(ground.folder)
    with stage(ground, cluster=cluster) as ours:
        for profile, delivery in RUNS:
            with run(ours, f"drain-{profile}", profile, delivery) as recommend:
                back = [_stops_and_resumes(recommend, moment) for moment in moments(4, 2)]
                told = recommend.verify() | {"slowest_s": max(back)}
                assert told["again"] == 0, f"{told['again']} lists came twice"
                figures[profile] = told
        with run(ours, "drain-cluster") as recommend:
            told = {
                "taskmanager_s": _goes_on_after(recommend, cluster.end_taskmanager),
                "cluster_s": _goes_on_after(recommend, cluster.close),
            }
            figures["cluster"] = recommend.verify() | told
            recommend.stop()
    return figures


def _stops_and_resumes(recommend: Run, moment: float) -> float:
    """Stop the job with a savepoint while events come; seconds until lists come again."""
    time.sleep(moment)
    began = time.monotonic()
    recommend.stop()
    recommend.stage.jobs("cluster", "resume", "recommend")
    recommend.goes_on()
    seconds = round(time.monotonic() - began, 1)
    recommend.stage.ground.say(f"stopped with a savepoint; lists again after {seconds} s")
    return seconds


def _goes_on_after(recommend: Run, fault: Callable[[], object]) -> float:
    """Start again what a fault ended; seconds until the job has brought itself back."""
    cluster, job, began = recommend.stage.cluster, recommend.job_id, time.time()
    fault()
    cluster.start()
    wait_for(lambda: restored_since(cluster, job, began), PATIENCE_S, "the job to go on", 0.1)
    recommend.goes_on()
    seconds = round(time.time() - began, 1)
    recommend.stage.ground.say(f"started again what got SIGTERM; lists again after {seconds} s")
    return seconds
