"""What a job should have written and has not is found by its id, and written once."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from jobs.repair import missing, write
from operators.broker import Broker
from operators.connection import Connection
from tests.faults.readers import hanging
from tests.kafka import Record, completed, job, read, wait_for
from tests.kafka import send as send_records
from tests.shopping import GAP_MS, shopping
from udfs.events import decode, to_text
from udfs.sessions import Closing

ITEMS = [f"i-{number}" for number in range(50)]


def told(name: str, second: int, value: bytes = b"", key: bytes = b"u") -> Record:
    time = f"2026-11-23T10:00:{second:02}.000Z".encode()
    return Record(value or name.encode(), key, [("ce_id", name.encode()), ("ce_time", time)])


def found(broker: Broker, source: str, target: str, waits_ms: float | None) -> tuple[Any, Counter]:
    counts: Counter[str] = Counter(due=0, missing=0, open=0)
    kafka = Connection(bootstrap=broker.bootstrap)
    return [*missing(kafka, source, target, waits_ms, counts)], counts


def test_only_what_no_reader_finds_is_missing_and_what_is_open_is_left(broker: Broker) -> None:
    broker.create_topics({"r-again": 1, "r-there": 1})
    due = [told("a", 1), told("b", 2), told("b", 2), told("c", 3), told("open", 30)]
    send_records(broker.bootstrap, "r-again", due)
    send_records(broker.bootstrap, "r-there", [told("a", 1, b"as it was written then")])
    lists, counts = found(broker, "r-again", "r-there", None)
    assert [each.value() for each in lists] == [b"b", b"c", b"open"]
    assert counts == {"due": 4, "missing": 3, "open": 0}
    closed, counts = found(broker, "r-again", "r-there", 10_000)
    assert [each.value() for each in closed] == [b"b", b"c"]
    assert counts == {"due": 4, "missing": 2, "open": 1}


def test_what_was_given_up_with_its_transaction_is_missing(broker: Broker) -> None:
    broker.create_topics({"r-all": 1, "r-given-up": 1})
    send_records(broker.bootstrap, "r-all", [told("a", 1)])
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "r-given-up"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce("r-given-up", b"a", headers=told("a", 1).headers)
    producer.flush(30)
    producer.abort_transaction(30)
    wait_for(lambda: hanging(broker.bootstrap, "r-given-up") == 0, 30, "the mark", 0.05)
    lists, _ = found(broker, "r-all", "r-given-up", None)
    assert [each.value() for each in lists] == [b"a"]


def test_it_is_written_as_it_is_to_the_partition_that_flink_chooses(broker: Broker) -> None:
    broker.create_topics({"r-from": 1, "r-to": 4})
    # Utils.murmur2 of these keys, as org.apache.kafka.common.utils.UtilsTest has it
    hashes = {b"21": -973932308, b"foobar": -790332482, b"abc": 479470107}
    places = {key: (number & 0x7FFFFFFF) % 4 for key, number in hashes.items()}
    send_records(broker.bootstrap, "r-from", [told(k.decode(), 1, b"v", k) for k in places])
    lists, _ = found(broker, "r-from", "r-to", None)
    write(Connection(bootstrap=broker.bootstrap), "r-to", lists)
    came = read(broker.bootstrap, "r-to")
    assert {each.key: each.partition for each in came} == places
    assert all(each.value == b"v" for each in came)
    assert {dict(each.headers)["ce_id"] for each in came} == set(places)


def test_sessions_that_should_be_there_are_written_and_those_still_open_are_not(
    broker: Broker, tmp_path: Path
) -> None:
    events = sorted(shopping(3, 20, 900, ITEMS), key=time_of)
    broker.create_topics(dict.fromkeys(("r-events", "r-sessions"), 1))
    send_records(broker.bootstrap, "r-events", events)
    settings = (f"kafka.bootstrap={broker.bootstrap}", "events_topic=r-events")
    told = ("sessions_topic=r-sessions", "out_of_order_s=10", "engine.profile=throughput")
    words = [*job("repair", *settings, *told)]
    words.insert(words.index("repair") + 1, "sessions")
    done = completed(tmp_path, words)
    assert done.returncode == 0, done.stderr
    texts: dict[str, list[str]] = defaultdict(list)
    for record in events:
        user, event = decode(record.value, int(time.time() * 1000))
        texts[user].append(to_text(event))
    rule = Closing(GAP_MS, at_once_ms=-1)
    due = [each for user in texts for each in rule.by_silence(user, ",".join(texts[user]))]
    sessions = {each.session_id: json.loads(each.value) for each in due}
    closed_ms = max(map(time_of, events)) - GAP_MS - 10_000
    closed = {name: each for name, each in sessions.items() if each["ended_at"] <= closed_ms}
    came = [json.loads(each.value or b"") for each in read(broker.bootstrap, "r-sessions")]
    assert {each["session_id"]: each for each in came} == closed
    assert len(came) == len(closed)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "due": len(sessions),
        "missing": len(closed),
        "open": len(sessions) - len(closed),
    }
    assert 0 < len(closed) < len(sessions)


def time_of(record: Record) -> int:
    return int(json.loads(record.value or b"")["event_time"])
