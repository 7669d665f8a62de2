"""Records that a process writes itself: all of them, in order, or why not."""

from __future__ import annotations

from operators.broker import Broker
from operators.connection import Connection
from operators.sending import Outgoing, send
from tests.kafka import read


def test_more_than_the_queue_holds_arrive_in_order(broker: Broker) -> None:
    broker.create_topics({"many": 1})
    values = [b"%d" % number for number in range(2_000)]
    records = [Outgoing("many", value, b"k", [("n", value)]) for value in values]
    kafka = Connection(bootstrap=broker.bootstrap)
    assert send(kafka, records, {"queue.buffering.max.messages": 10}) == []
    assert [record.value for record in read(broker.bootstrap, "many")] == values
    assert read(broker.bootstrap, "many")[7].headers == [("n", b"7")]
