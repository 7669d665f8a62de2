"""What is fed into a topic of a replay: where, when, and what becomes of the topic."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from models.event_range import messages
from models.past_events import PastRecord
from operators.broker import Broker
from operators.connection import Connection
from operators.staging import Feeder, ranges_of, staged

T = 1_322_700_000_000
RECORDS = [
    PastRecord(T, 1, 0, b"u", b"first", T + 7, [("h", None), ("h", b"1")]),
    PastRecord(T + 300, 0, 1, None, None, 4_000_000_000_000, []),  # received in 2096
    PastRecord(T + 100, 1, 2, b"u", b"late", T, []),
    PastRecord(T + 600, 1, 3, b"u", b"last", T, []),
]


def test_records_arrive_in_order_as_they_were_and_the_topic_is_deleted(broker: Broker) -> None:
    kafka = Connection(bootstrap=broker.bootstrap)
    with staged(kafka, {"events": 3}) as topics:
        feeder = Feeder(kafka, topics["events"], RECORDS, None)
        feeder.start()
        feeder.join()
        feeder.finish()
        found = [*messages(kafka.client(), topics["events"], "earliest", "latest")]
    by_partition = sorted(found, key=lambda each: each.partition())
    assert [each.value() for each in by_partition] == [None, b"first", b"late", b"last"]
    assert [each.timestamp()[1] for each in by_partition] == [4_000_000_000_000, T + 7, T, T]
    assert by_partition[1].headers() == [("h", None), ("h", b"1")]
    assert by_partition[1].key() == b"u"
    assert ranges_of(RECORDS, 3) == {0: (0, 1), 1: (0, 3), 2: (0, 0)}
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    assert topics["events"] not in admin.list_topics(timeout=10).topics


@pytest.mark.parametrize(("speed", "seconds"), [(2.0, 0.3), (0.5, 1.2)])
def test_a_pace_is_kept(broker: Broker, speed: float, seconds: float) -> None:
    kafka = Connection(bootstrap=broker.bootstrap)
    with staged(kafka, {"events": 2}) as topics:
        feeder = Feeder(kafka, topics["events"], RECORDS, speed)
        began = time.monotonic()
        feeder.start()
        feeder.join()
        assert seconds <= time.monotonic() - began < seconds + 1
        feeder.finish()
        assert len([*messages(kafka.client(), topics["events"], "earliest", "latest")]) == 4


def test_what_the_brokers_refuse_is_told(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    monkeypatch.setattr("signal.raise_signal", raised.append)
    kafka = Connection(bootstrap=broker.bootstrap)
    with staged(kafka, {"events": 1}) as topics:
        wrong = [PastRecord(T, 5, 0, b"u", b"x", T, [])]  # there is no partition 5
        feeder = Feeder(kafka, topics["events"], wrong, None)
        feeder.start()
        feeder.join()
        with pytest.raises(KafkaException):
            feeder.finish()
    assert raised
