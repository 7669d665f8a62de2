"""Processes that are killed, or that end themselves."""

from __future__ import annotations

import json
import time

from tests.counting import addresses
from tests.faults.run import RESTARTS, RUNS, moments, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import python_workers, stage
from tests.kafka import wait_for

KILLS = 5  # in each of the two runs
# No task that is cancelled ends as soon as that, for which Flink ends its TaskManager.
IMPATIENT = RESTARTS | {"task.cancellation.timeout": "1 ms"}


@scenario()
def taskmanager_kill(ground: Ground) -> Figures:
    """TaskManagers are killed ten times, at random and in the middle of a checkpoint."""
    figures: Figures = {}
    with stage(ground) as ours:
        for profile, delivery in RUNS:
            with run(ours, f"kill-{profile}", profile, delivery) as recommend:
                back = []
                for number, moment in enumerate(moments(1, KILLS)):
                    time.sleep(moment)
                    ours.cluster.start_taskmanager()  # the one that takes over
                    if number % 2:
                        recommend.take_checkpoint()
                    back.append(recommend.survives(recommend.kill_taskmanager))
                    ground.say(f"killed a TaskManager; lists again after {back[-1]:.1f} s")
                told = recommend.verify() | {"slowest_s": round(max(back), 1)}
                figures[profile] = told
    return figures


@scenario()
def python_worker_kill(ground: Ground) -> Figures:
    """Python workers are killed: nothing is lost or doubled, and none is left without a parent."""
    with stage(ground) as ours, run(ours, "worker") as recommend:
        back = []
        for moment in moments(2, 2):
            time.sleep(moment)
            worker = python_workers(ours.cluster.directory)[0]
            back.append(recommend.survives(worker.kill))
            ground.say(f"killed worker {worker.pid}; lists again after {back[-1]:.1f} s")
        told = recommend.verify() | {"slowest_s": round(max(back), 1)}
        recommend.close()
        directory = ours.cluster.directory
        wait_for(lambda: not python_workers(directory), 60, "the end of the workers")
    return told


@scenario()
def taskmanager_end(ground: Ground) -> Figures:
    """Flink ends TaskManagers when it cancels a task: they are started again, the job goes on."""
    options = f"engine.options={json.dumps(IMPATIENT)}"
    with stage(ground) as ours, run(ours, "end", *RUNS[0], options) as recommend:
        before = addresses(ours.rest)
        seconds = recommend.survives(python_workers(ours.cluster.directory)[0].kill)
        assert before.isdisjoint(addresses(ours.rest)), "no TaskManager has ended itself"
        return recommend.verify() | {"slowest_s": round(seconds, 1)}
