"""More events than usual, and a broker that is slower than usual."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from tests.faults.memory import memory
from tests.faults.run import RATE, RUNS, Run, run, shoppers
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import Stage, stage
from tests.kafka import PATIENCE_S, wait_for

BURST_S, SLOW_S = 60, 30
EVENTS = 30_000
PAUSED_S, AWAKE_S = 0.8, 0.2
CHECKPOINTS = 3  # at the least, of those that are due each second


@scenario()
def burst(ground: Ground) -> Figures:
    """Ten times the events for a minute: bounded memory, checkpoints complete, none is lost."""
    return under(ground, crowded)


@scenario()
def slow_sink(ground: Ground) -> Figures:
    """The broker works a fifth of the time: bounded memory, checkpoints complete, none is lost."""
    return under(ground, slowed)


def under(ground: Ground, load: Callable[[Run], None]) -> Figures:
    """What holds in both runs while the load is on, and afterwards."""
    figures: Figures = {}
    with stage(ground) as ours:
        for profile, delivery in RUNS:
            records = shoppers(events=EVENTS)
            with run(ours, f"load-{profile}", profile, delivery, records=records) as ran:
                figures[profile] = _under(ours, ran, load)
                ground.say(str(figures[profile]))
    return figures


def _under(ours: Stage, ran: Run, load: Callable[[Run], None]) -> Figures:
    with memory(ours.cluster) as taken:
        ran.flow.wait_for(5 * RATE)
        before = ran.checkpoints()["counts"]
        load(ran)
        made = {name: count - before[name] for name, count in ran.checkpoints()["counts"].items()}
        told: Figures = {"behind": behind(ran), "checkpoints": made["completed"]}
        told["caught_up_s"] = caught_up(ran)
        told |= ran.verify() | taken.check()
    assert ran.failures() == 0, ran.why_it_ended()
    assert made["failed"] == 0, f"{made['failed']} checkpoints failed"
    assert made["completed"] >= CHECKPOINTS, f"only {made['completed']} checkpoints completed"
    return told


def crowded(ran: Run) -> None:
    """Ten times the events."""
    ran.flow.rate = 10 * RATE
    ran.flow.wait_for(10 * RATE * BURST_S)
    ran.flow.rate = RATE


def slowed(ran: Run) -> None:
    """A broker that stands still most of the time."""
    broker = psutil.Process(ran.stage.broker.pid)
    end = time.monotonic() + SLOW_S
    try:
        while time.monotonic() < end:
            broker.suspend()
            time.sleep(PAUSED_S)
            broker.resume()
            time.sleep(AWAKE_S)
    finally:
        broker.resume()


def behind(ran: Run) -> int:
    """How many events were sent that the job had not read about a second ago."""
    ran.counts()  # Flink answers with what it knew, and only then looks anew
    time.sleep(1.2)
    return len(ran.flow.sent) - ran.counts().get("consumed", 0)


def caught_up(ran: Run) -> float:
    """Seconds until the job has read all but what came in the last two seconds."""
    began = time.monotonic()
    wait_for(lambda: behind(ran) <= 2 * RATE, PATIENCE_S, "the job to catch up")
    return round(time.monotonic() - began, 1)
