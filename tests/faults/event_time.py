"""Events of times that cannot be, and partitions that stand still."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from tests.canaries import CANARY, USER
from tests.faults.closings import (
    IDLE_S,
    closings,
    partition_of,
    visit,
    visitors,
)
from tests.faults.flow import Flow
from tests.faults.run import run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import Stage, stage
from tests.kafka import PATIENCE_S, Record, now_ms, send, wait_for
from tests.shopping import START_MS, expected, starter

HOUR_MS = 3_600_000
EVENTS, SPACING_MS = 2_000, 25
BY_BROKER = {"log.message.timestamp.type": "LogAppendTime"}  # as docs/kafka.md has it
LAGGARD = f"{CANARY}laggard"  # users whose producer's clock is an hour behind


@scenario()
def time_travel(ground: Ground) -> Figures:
    """Events of 1970, of 2099, in seconds, an hour ahead or behind: no other is late or changed.

    Those an hour away come from producers whose clocks are: their records say the same time.
    """
    with (
        stage(ground, broker_options=BY_BROKER) as ours,
        closings(ours, "travel", "travel-in", parallelism=1) as job,
    ):
        records, travellers = travelling(now_ms() - EVENTS * SPACING_MS)
        ordinary = [each for each in records if each not in travellers]
        with run(ours, "travel", parallelism=1, records=records, rate=100) as recommend:
            recommend.flow.finish()
            told = recommend.verify()
            others = expected(starter(), ordinary, now_ms())
            assert others.items() <= expected(starter(), records, now_ms()).items(), (
                "the travellers changed the answers to others"
            )
            assert recommend.failures() == 0, recommend.why_it_ended()
        told |= job.verify(now_ms() + 120_000)
        dead, late = ({each.value for each in job.found(t)} for t in (job.dead, job.late))
        assert dead == {each.value for each in travellers if not is_behind(each)}
        assert late <= {each.value for each in travellers if is_behind(each)}, "others are late"
    return told | {"travellers": len(travellers)}


@scenario()
def idle_partition(ground: Ground) -> Figures:
    """A partition stands still: sessions close all the same, and its backlog is late, not lost."""
    with stage(ground) as ours:
        return {f"parallelism {slots}": _idle(ours, f"idle-{slots}", slots) for slots in (1, 2)}


def _idle(ours: Stage, name: str, slots: int) -> Figures:
    bootstrap, rate = ours.broker.bootstrap, 100
    records = visitors(3, 3_500, START_MS, SPACING_MS)
    both, then, last = records[:1000], records[1000:3000], records[3000:]
    held = [each for each in then if partition_of(each) == 1]
    with closings(ours, name, f"{name}-in", slots) as job:
        job.warm_up()
        Flow(bootstrap, job.events, both, rate).finish()
        busy = [each for each in then if partition_of(each) == 0]
        flow = Flow(bootstrap, job.events, busy, rate / 2)
        goal = newest(both) + 1000 * IDLE_S
        wait_for(
            lambda: any(each["started_at"] > goal for each in job.closed()),
            PATIENCE_S,
            "sessions of the other partition to close",
        )
        flow.finish()
        ours.ground.say(f"now {len(held)} events of the other partition come")
        send(bootstrap, job.events, held)
        Flow(bootstrap, job.events, last, rate).finish()
        told = job.verify(newest(records) + 60_000)
        assert told["late"] > 0, "expected a backlog that came too late"
        return told | {"backlog": len(held)}


def travelling(start_ms: int) -> tuple[list[Record], list[Record]]:
    """Events of now, and among them those whose producers do not know what time it is."""
    draw = random.Random(8)
    records = visitors(8, EVENTS, start_ms, SPACING_MS)
    times = {
        "1970": lambda now: now % HOUR_MS,
        "2099": lambda now: 4_070_908_800_000 + now % HOUR_MS,
        "seconds": lambda now: now // 1000,
        "ahead": lambda now: now + HOUR_MS,
        "behind": lambda now: now - HOUR_MS,
    }
    travellers = []
    for number in range(EVENTS // 20):
        place = draw.randrange(len(records))
        kind = draw.choice(list(times))
        at = times[kind](start_ms + place * SPACING_MS)
        user = f"{LAGGARD}-{number % 7}" if kind == "behind" else f"{USER}-{place // 100 * 5}"
        wrong_clock = at if kind in ("ahead", "behind") else 0
        travellers.append(replace(visit(f"t-{kind}-{number}", user, at), sent_ms=wrong_clock))
        records.insert(place, travellers[-1])
    return records, travellers


def is_behind(record: Record) -> bool:
    return (record.key or b"").startswith(LAGGARD.encode())


def newest(records: list[Record]) -> int:
    """The newest event time of the records."""
    return max(json.loads(each.value or b"")["event_time"] for each in records)
