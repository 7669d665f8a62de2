"""The sessions job on the stage, and what it must make of the events it was sent."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from zlib import crc32

from operators.accounting import DROPPED
from operators.remote import cancel
from operators.running import counters
from tests.canaries import CANARY, USER
from tests.faults.readers import committed
from tests.faults.scenario import Figures
from tests.faults.stage import Stage, explained
from tests.kafka import PATIENCE_S, Record, now_ms, send, wait_for
from tests.shopping import START_MS
from udfs.events import decode, to_text
from udfs.sessions import Closing

PARTITIONS = 2
GAP_S, OUT_OF_ORDER_S, IDLE_S = 5, 2, 3
PASSER = f"{CANARY}passer"  # users whose events come last, and let the sessions of all others close
KINDS = ("view_item", "view_item", "select_item", "add_to_cart", "search", "session_end")
Sessions = dict[str, dict[str, Any]]


class Closings:
    """A sessions job and the topics it writes."""

    def __init__(self, stage: Stage, name: str, events: str, job_id: str) -> None:
        self.stage, self.events, self.job_id = stage, events, job_id
        self.sessions, self.late, self.dead = outputs(name)

    def found(self, topic: str) -> list[Record]:
        """What a reader that begins now finds."""
        return committed(self.stage.broker.bootstrap, topic)

    def closed(self) -> list[dict[str, Any]]:
        """The sessions so far, but those of PASSER."""
        told = [json.loads(record.value or b"") for record in self.found(self.sessions)]
        return [each for each in told if not each["user_id"].startswith(PASSER)]

    def warm_up(self) -> None:
        """Let the job close first sessions, of PASSER, an hour before START_MS."""
        times, began = count(START_MS - 3_600_000, 2 * GAP_S * 1000), time.monotonic()

        def closes() -> bool:
            self._pass_all(next(times))
            return bool(self.found(self.sessions))

        wait_for(closes, PATIENCE_S, "the first session", 1)
        self.stage.ground.say(f"the first session came after {time.monotonic() - began:.1f} s")

    def _pass_all(self, time_ms: int) -> None:
        """Send events of this time to all partitions, so that what is open closes.

        Once may not be enough: when partitions come back from standing still Flink 2.3 can hold
        the watermark back until their next events (FLINK-40475).
        """
        passers = [visit(f"pass-{n}", f"{PASSER}-{n}", time_ms) for n in range(8 * PARTITIONS)]
        send(self.stage.broker.bootstrap, self.events, passers)

    def verify(self, end_ms: int) -> Figures:
        """Every event is in its session, a late event or a dead letter; and each is that once.

        Events of `end_ms` and later let all others close.
        """
        due, found, late = {}, [], []
        times = count(end_ms, 1000)

        def settled() -> bool:
            nonlocal due, found, late
            self._pass_all(next(times))
            late, found = self.found(self.late), self.closed()
            due = self._due(late)
            return len(found) >= len(due)

        try:
            wait_for(settled, PATIENCE_S, "every session", 2)
        except AssertionError as error:
            told = counters(self.stage.rest, self.job_id)
            raise AssertionError(
                f"{error}: {len(found)} of {len(due)}, {len(late)} events late; {told}"
            ) from None
        came = {each["session_id"]: each for each in found}
        assert len(came) == len(found), f"{len(found) - len(came)} sessions came twice"
        lost = sum(len(due[name]["events"]) for name in due.keys() - came.keys())
        assert came == due, (
            f"{len(due.keys() - came.keys())} sessions with {lost} events are lost, "
            f"{len(came.keys() - due.keys())} are unknown: {different(came, due)}"
        )
        late = [each for each in late if not (each.key or b"").startswith(PASSER.encode())]
        told = counters(self.stage.rest, self.job_id)
        assert DROPPED not in told, f"{told[DROPPED]} events were dropped and told nowhere"
        return {"sessions": len(due), "late": len(late), "dead": told.get("dead_letters", 0)}

    def _due(self, late: list[Record]) -> Sessions:
        """The sessions of the events that are neither late nor dead letters."""
        rule = Closing(GAP_S * 1000, at_once_ms=-1)  # closed at once or not, they are the same
        gone = {origin(record, "late_event") for record in late}
        gone |= {origin(record, "dead_letter") for record in self.found(self.dead)}
        texts: dict[str, list[str]] = defaultdict(list)
        for record in self.found(self.events):
            if (record.partition, record.offset) not in gone:
                user, event = decode(record.value, now_ms())
                texts[user].append(to_text(event))
        closed = [
            json.loads(each.value)
            for user, events in texts.items()
            if not user.startswith(PASSER)
            for each in rule.by_silence(user, ",".join(events))
        ]
        return {each["session_id"]: each for each in closed}


@contextmanager
def closings(stage: Stage, name: str, events: str, parallelism: int) -> Iterator[Closings]:
    """A sessions job on a topic of events, which is made if it is not there."""
    stage.ground.say(f"starting sessions with parallelism {parallelism}")
    sessions, late, dead = outputs(name)
    stage.broker.create_topics(dict.fromkeys((events, sessions, late, dead), PARTITIONS))
    job_id = stage.submit(
        "sessions",
        f"kafka.bootstrap={stage.broker.bootstrap}",
        f"kafka.group={name}",
        f"events_topic={events}",
        f"sessions_topic={sessions}",
        f"late_events_topic={late}",
        f"dead_letters_topic={dead}",
        f"engine.parallelism={parallelism}",
        "engine.checkpoint_interval_s=1",
        "delivery=exactly-once",
        f"session_gap_s={GAP_S}",
        f"out_of_order_s={OUT_OF_ORDER_S}",
        f"idle_s={IDLE_S}",
    )
    try:
        with explained(stage):
            yield Closings(stage, name, events, job_id)
    finally:
        cancel(stage.rest, job_id)


def outputs(name: str) -> tuple[str, str, str]:
    """The topics of sessions, late events and dead letters."""
    return f"{name}-sessions", f"{name}-late", f"{name}-dead"


def visitors(seed: int, count: int, start_ms: int, spacing_ms: int) -> list[Record]:
    """Events of ever new users, each for a while, out of order by less than OUT_OF_ORDER_S."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        user = f"{USER}-{number // 100 * 5 + draw.randrange(5)}"
        lag = draw.randrange(OUT_OF_ORDER_S * 1000 - 500)
        at = start_ms + number * spacing_ms - lag
        made.append(visit(f"v-{number}", user, at, draw.choice(KINDS), f"{85100 + number % 50}A"))
    return made


def visit(name: str, user: str, time_ms: int, kind: str = "view_item", item: str = "i") -> Record:
    """One event."""
    told = {"event_id": name, "event_type": kind, "event_time": time_ms, "user_id": user}
    return Record(json.dumps({**told, "items": [{"item_id": item}]}).encode(), user.encode())


def partition_of(record: Record) -> int:
    """Where the producers of these scenarios put a record."""
    return crc32(record.key or b"") % PARTITIONS


def origin(record: Record, prefix: str) -> tuple[int, int]:
    """Partition and offset that a late event or a dead letter was read from."""
    told = dict(record.headers)
    return int(told[f"__{prefix}.partition"] or 0), int(told[f"__{prefix}.offset"] or 0)


def different(came: Sessions, due: Sessions) -> list[tuple[Any, Any]]:
    """The first two that are not alike."""
    names = sorted(came.keys() | due.keys())
    return [(came.get(n), due.get(n)) for n in names if came.get(n) != due.get(n)][:2]
