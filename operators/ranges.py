"""Ranges of a topic: what there is since the last time, and how far its events have come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from operators.connection import Connection
from udfs.events import InvalidEventError, decode

_PATIENCE_S = 15.0
Range = tuple[int, int]  # the first offset and the one after the last


def unread(
    kafka: Connection, topic: str, reached: Mapping[int, int]
) -> tuple[dict[int, Range], int]:
    """What was not read of each partition, and how many records the broker deleted unread.

    `reached` are the first offsets not read; without one, a partition is read from its beginning.
    The end is that of now: what transactions have not committed yet is left for the next time.
    """
    found, lost = {}, 0
    with _consumer(kafka) as consumer:
        for number in _partitions(consumer, topic):
            low, high = _bounds(consumer, topic, number)
            first = reached.get(number, low)
            lost += max(low - first, 0)
            found[number] = min(max(first, low), high), high
    return found, lost


def newest_event_time(kafka: Connection, topic: str) -> int | None:
    """The newest time, epoch ms, of the last events of all partitions; None if there is none."""
    times = []
    with _consumer(kafka) as consumer:
        for number in _partitions(consumer, topic):
            low, high = _bounds(consumer, topic, number)
            if low < high:
                consumer.assign([TopicPartition(topic, number, high - 1)])
                times.append(_time(consumer.poll(_PATIENCE_S)))
    return max((time for time in times if time is not None), default=None)


def _time(message: Any) -> int | None:
    """The event time of a message, None where it is no event."""
    if message is None or message.error():
        return None
    try:
        return decode(message.value(), message.timestamp()[1])[1].time
    except InvalidEventError:
        return None


@contextmanager
def _consumer(kafka: Connection) -> Iterator[Consumer]:
    settings = {
        **kafka.client(),
        "group.id": "streamrec-finetune",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
    }
    with closing(Consumer(settings)) as consumer:
        yield consumer


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    return sorted(consumer.list_topics(topic, timeout=_PATIENCE_S).topics[topic].partitions)


def _bounds(consumer: Consumer, topic: str, number: int) -> Range:
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_PATIENCE_S)
    return int(low), int(high)
