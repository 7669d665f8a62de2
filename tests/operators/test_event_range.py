"""What is read of a topic that transactions wrote: what was committed, and then no more waiting."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from confluent_kafka import Producer

from models.event_range import messages
from operators.broker import Broker
from tests.faults.readers import hanging
from tests.kafka import Record, send, wait_for


def in_transaction(broker: Broker, topic: str, values: Sequence[bytes], commit: bool) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)


@pytest.mark.parametrize("commit", [True, False])
def test_a_range_that_ends_with_the_mark_of_a_transaction_ends(
    broker: Broker, commit: bool
) -> None:
    topic = f"range-{'committed' if commit else 'aborted'}"
    broker.create_topics({topic: 2})
    in_transaction(broker, topic, [b"a", b"b"], commit)
    # The broker writes the mark a moment after it has answered.
    wait_for(lambda: hanging(broker.bootstrap, topic) == 0, 30, "the mark", 0.05)
    found = messages({"bootstrap.servers": broker.bootstrap}, topic, "earliest", "latest")
    assert [each.value() for each in found] == ([b"a", b"b"] if commit else [])


def test_bounds_are_offsets_of_every_partition(broker: Broker) -> None:
    broker.create_topics({"range-offsets": 1})
    send(broker.bootstrap, "range-offsets", [Record(b"%d" % number) for number in range(10)])
    found = messages({"bootstrap.servers": broker.bootstrap}, "range-offsets", "3", "6")
    assert [each.value() for each in found] == [b"3", b"4", b"5"]
