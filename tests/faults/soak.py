"""Half an hour of ordinary traffic: what must not grow."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

from tests.canaries import USER
from tests.faults.memory import taskmanagers
from tests.faults.run import RUNS, Run, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import JVM, Record
from tests.shopping import START_MS, starter

MINUTES, WARM_UP = 30, 10
LOOK_S = 10
RATE = 20  # events a second
VISIT = 50  # events of a user, who then never comes again
TTL_S = 120  # until a user's window is dropped
MOST_PERCENT = 1.0  # of memory, in ten minutes
# The heap is touched whole at the start: otherwise it grows for as long as it takes to fill it.
TOUCHED = {"env.java.opts.taskmanager": f"{JVM} -XX:+AlwaysPreTouch"}


@scenario(long=True)
def soak(ground: Ground) -> Figures:
    """Half an hour of traffic in each profile: memory and state do not grow."""
    with ExitStack() as open_ones:
        soaked = [open_ones.enter_context(_soaked(ground, *each)) for each in RUNS]
        _look_at(soaked)
        return {each.profile: each.figures() for each in soaked}


@dataclass(frozen=True)
class Soaked:
    """A run of one profile, and what was seen of it."""

    profile: str
    ran: Run
    looks: list[list[float]] = field(default_factory=list)
    """MiB of each TaskManager with its workers."""
    states: list[int] = field(default_factory=list)
    """Bytes of checkpoints."""

    def look(self) -> None:
        self.looks.append([each.together for each in taskmanagers(self.ran.stage.cluster)])
        self.states.append(int(self.ran.checkpoints()["latest"]["completed"]["state_size"]))

    def say(self) -> None:
        told = f"{sum(self.looks[-1]):.0f} MiB, {self.states[-1]:,} bytes of state"
        self.ran.stage.ground.say(told)

    def figures(self) -> Figures:
        """What it found; AssertionError where something was lost or has grown."""
        figures = self.ran.verify() | grown(self.looks, self.states)
        assert self.ran.failures() == 0, self.ran.why_it_ended()
        self.ran.stage.ground.say(str(figures))
        return figures


@contextmanager
def _soaked(ground: Ground, profile: str, delivery: str) -> Iterator[Soaked]:
    """A run of one profile, on a broker and a cluster of its own."""
    own = Ground(ground.folder / profile, lambda text: ground.say(f"{profile}: {text}"))
    own.folder.mkdir()
    settings = (f"soak-{profile}", profile, delivery, f"state_ttl_s={TTL_S}")
    with (
        stage(own, options=TOUCHED) as ours,
        run(ours, *settings, records=passing(), rate=RATE) as ran,
    ):
        yield Soaked(profile, ran)


def _look_at(soaked: list[Soaked]) -> None:
    """Look at each of them every LOOK_S, for MINUTES."""
    end = time.monotonic() + 60 * MINUTES
    while time.monotonic() < end:
        time.sleep(LOOK_S)
        for each in soaked:
            each.look()
            if len(each.looks) % (300 // LOOK_S) == 0:
                each.say()


def grown(looks: list[list[float]], states: list[int]) -> Figures:
    """How much memory grew in ten minutes, and the state from the second to the last third."""
    sums = np.array([sum(each) for each in looks])
    minutes = np.arange(1, len(sums) + 1) * LOOK_S / 60
    warm = minutes > WARM_UP
    slope = float(np.polyfit(minutes[warm], sums[warm], 1)[0])
    percent = 100 * 10 * slope / float(sums[warm].mean())
    third = len(states) // 3
    middle, last = (float(np.mean(states[at : at + third])) for at in (third, 2 * third))
    told = {
        "mib": round(float(sums[warm].mean())),
        "percent_in_10_minutes": round(percent, 2),
        "state_bytes": [round(middle), round(last)],
    }
    assert percent < MOST_PERCENT, f"memory grows: {told}"
    assert last < 1.1 * middle, f"state grows: {told}"
    return told


def passing() -> list[Record]:
    """Events of ever new users, ten at a time, enough for the soak and its start."""
    draw, items = random.Random(9), starter().catalogue.item_ids[:500]
    records = []
    for number in range(RATE * 60 * (MINUTES + 10)):
        user = f"{USER}-{number // (10 * VISIT) * 10 + draw.randrange(10)}"
        event = {
            "event_id": f"s-{number}",
            "event_type": "view_item",
            "event_time": START_MS + number * 1000 // RATE,
            "user_id": user,
            "items": [{"item_id": draw.choice(items), "price": 1.5}],
        }
        records.append(Record(json.dumps(event).encode(), user.encode()))
    return records
