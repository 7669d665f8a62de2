"""Every record that was read has met exactly one outcome; Flink's REST shows which."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from operators.accounting import accounted
from operators.broker import Broker
from operators.ports import free_port
from operators.rest import Rest
from operators.running import counters
from tests.kafka import Record, running, send, wait_for
from tests.malformed import malformed
from tests.shopping import outcomes, shopping, starter


@pytest.mark.parametrize("profile", ["latency", "throughput"])
def test_the_counters_of_a_running_job_balance(
    broker: Broker, tmp_path: Path, profile: str
) -> None:
    topics = {kind: f"count-{profile}-{kind}" for kind in ("events", "recommendations", "dead")}
    broker.create_topics(dict.fromkeys(topics.values(), 2))
    rest = f"127.0.0.1:{(port := free_port())}"
    settings = [
        f"kafka.bootstrap={broker.bootstrap}",
        f"kafka.group=count-{profile}",
        f"engine.profile={profile}",
        f"engine.rest_port={port}",
        f"events_topic={topics['events']}",
        f"recommendations_topic={topics['recommendations']}",
        f"dead_letters_topic={topics['dead']}",
    ]
    bundle = starter()
    sent = traffic(bundle.catalogue.item_ids[:200])
    with running(tmp_path, "recommend", *settings):
        for stop in (len(sent) // 2, len(sent)):  # the counters go on where they were
            start = 0 if stop < len(sent) else len(sent) // 2
            send(broker.bootstrap, topics["events"], sent[start:stop])
            due = outcomes(bundle, sent[:stop], int(time.time() * 1000))
            assert min(due.values()) > 0
            assert settled(rest, stop) == due


def traffic(items: list[str]) -> list[Record]:
    """Shoppers' events, repeated and not triggering ones among them, and records that are none."""
    records = shopping(seed=9, users=10, events=500, items=items)
    draw = random.Random(2)
    for number, (_, value) in enumerate(malformed()):
        records.insert(draw.randrange(len(records)), Record(value, f"bad-{number}".encode()))
    return records


def settled(rest: str, consumed: int) -> dict[str, int]:
    """The counters once each of `consumed` records has met its outcome."""
    seen: dict[str, int] = {}

    def is_settled() -> bool:
        seen.update(counted(rest))
        return seen.get("consumed") == consumed == accounted(seen)

    wait_for(is_settled, 120, f"{consumed} records to be accounted for")
    return seen


def counted(rest: str) -> dict[str, int]:
    """The counters of the only job there; none while the REST does not answer."""
    try:
        (job,) = Rest(rest).get("/jobs")["jobs"]
        return counters(Rest(rest), job["id"])
    except (OSError, ValueError):
        return {}
