"""A savepoint that is kept, and all that a job needs to go on from it on other brokers.

before ─ job ─ savepoint ┄┄ the same records at the same offsets ─ job of today ─ after
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from jobs.recommend import RecommendSettings
from jobs.sessions import SessionsSettings, closing_rule
from operators.broker import Broker
from tests.kafka import Record
from tests.shopping import decision, expected, starter
from udfs.events import decode, to_text
from udfs.sessions import Closing

FOLDER = Path(__file__).parent
PARTITIONS = 2
PROFILES = {"sessions": "throughput", "recommend": "latency"}
"""The jobs of which there is a savepoint, in the profile that each has by default."""


@dataclass(frozen=True)
class Kept:
    """The savepoint of a job."""

    job: str

    @property
    def folder(self) -> Path:
        return FOLDER / self.job

    @property
    def savepoint(self) -> str:
        """The URI that the job goes on from."""
        return (self.folder / "savepoint").as_uri()

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return json.loads((self.folder / "kept.json").read_text())

    @property
    def before(self) -> list[Record]:
        """The records that the savepoint has seen, with their places."""
        return self._records("before")

    @property
    def after(self) -> list[Record]:
        """Records that follow, for the same users."""
        return self._records("after")

    @property
    def delivered(self) -> set[str]:
        """The ids of the messages that were sent before the savepoint."""
        return set(self._facts["delivered"])

    def write(self, before: list[Record], after: list[Record], delivered: list[str]) -> None:
        """Keep the records, and what was made of those before."""
        facts = {
            "before": [_line(record) for record in before],
            "after": [_line(record) for record in after],
            "delivered": delivered,
        }
        (self.folder / "kept.json").write_text(_in_lines(facts))

    def settings(self, bootstrap: str, state: str | None, prefix: str = "kept") -> tuple[str, ...]:
        """The job's settings; with `state` it goes on from there."""
        topics = zip(_SETTINGS[self.job], self.topics(prefix), strict=True)
        options = {"execution.state-recovery.path": state} if state else {}
        return (
            f"kafka.bootstrap={bootstrap}",
            f"kafka.group={prefix}-{self.job}",
            f"engine.profile={PROFILES[self.job]}",
            f"engine.options={json.dumps(options)}",
            "kafka.start=earliest",
            *_MORE.get(self.job, ()),
            *(f"{key}={topic}" for key, topic in topics),
        )

    def topics(self, prefix: str = "kept") -> tuple[str, ...]:
        """Of events, of messages, of the rest."""
        return tuple(f"{prefix}-{self.job}-{n}" for n in range(len(_SETTINGS[self.job])))

    def due(self, records: list[Record]) -> dict[str, Any]:
        """What is made of all these records, by its id: without an engine, and never stopped."""
        now_ms = round(time.time() * 1000)
        if self.job == "recommend":
            return expected(starter(), records, now_ms)
        return sessions_due(records, now_ms)

    def found(self, records: list[Record]) -> dict[str, Any]:
        """Messages by their id, without their stamps; each must be there once."""
        values = [(record.value or b"").decode() for record in records]
        named = {json.loads(value)[_IDS[self.job]]: value for value in values}
        assert len(named) == len(values), "a message came twice"
        if self.job == "recommend":
            return {name: decision(value) for name, value in named.items()}
        return named

    def _records(self, part: str) -> list[Record]:
        return [
            Record(value.encode(), key.encode(), [], partition, offset)
            for key, value, partition, offset in self._facts[part]
        ]


_SETTINGS = {
    job: tuple(key for key in settings.model_fields if key.endswith("_topic"))
    for job, settings in (("sessions", SessionsSettings), ("recommend", RecommendSettings))
}
# A window is dropped a day after its user's last event, by the clock: kept ones would be gone.
_MORE = {"recommend": ("state_ttl_s=3e9",)}
_IDS = {"sessions": "session_id", "recommend": "recommendation_id"}


def _in_lines(facts: dict[str, list[Any]]) -> str:
    """JSON with a line for each member, so that a change of one can be read."""
    parts = (
        f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, members)) + "\n]"
        for name, members in facts.items()
    )
    return "{" + ",\n".join(parts) + "}\n"


def _line(record: Record) -> tuple[str, str, int, int]:
    value, key = record.value or b"", record.key or b""
    return key.decode(), value.decode(), record.partition, record.offset


def sessions_due(records: list[Record], now_ms: int) -> dict[str, str]:
    """The sessions that are closed by the time of the last event, by their ids."""
    settings, texts, newest = SessionsSettings(), defaultdict(list), 0
    for record in records:
        user, event = decode(record.value, now_ms)
        texts[user].append(to_text(event))
        newest = max(newest, event.time)
    every = Closing(closing_rule(settings).gap_ms, at_once_ms=-1)  # the same, only later
    closed = [each for user in texts for each in every.by_silence(user, ",".join(texts[user]))]
    watermark = newest - every.gap_ms - round(settings.out_of_order_s * 1000)
    values = {each.session_id: each.value for each in closed}
    return {name: v for name, v in values.items() if json.loads(v)["ended_at"] < watermark}


def send_to_their_places(broker: Broker, topic: str, records: list[Record]) -> None:
    """Send each record to its partition, where it gets its offset again."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
    places: list[tuple[int, int]] = []
    for record in records:
        producer.produce(
            topic,
            record.value,
            record.key,
            record.partition,
            on_delivery=lambda _, made: places.append((made.partition(), made.offset())),
        )
    assert producer.flush(30) == 0
    assert sorted(places) == sorted((each.partition, each.offset) for each in records)
