"""Events out of a range of a Kafka topic, bounded by offsets or by time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from models.event_files import from_messages
from models.sessions import EventTable

_PATIENCE_S = 15.0
_STEP_S = 1.0  # Ctrl-C is heard in between


def read_range(
    client: Mapping[str, str], topic: str, start: str, end: str
) -> tuple[EventTable, int]:
    """Events of a topic from `start` to before `end`, and how many messages were invalid.

    `client` are settings of librdkafka, at least the `bootstrap.servers`. Both bounds are
    `earliest`, `latest`, an offset (of every partition) or an ISO time. The end is fixed when
    reading begins, so that a topic that still grows gives a bounded range.
    """
    found = messages(client, topic, start, end)
    return from_messages((each.value(), each.timestamp()[1]) for each in found)


def messages(client: Mapping[str, str], topic: str, start: str, end: str) -> Iterator[Any]:
    """The Kafka messages of such a range, in order within each partition.

    ConnectionError says what the brokers refuse, or that none answers.
    """
    from confluent_kafka import Consumer, KafkaException

    consumer = Consumer(
        {
            **client,
            "group.id": "streamrec-range",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
    )
    try:
        yield from _messages(consumer, topic, start, end)
    except KafkaException as error:
        why = error.args[0].str()
        raise ConnectionError(f"expected brokers that tell of {topic}; {why}") from None
    finally:
        consumer.close()


def _messages(consumer: Any, topic: str, start: str, end: str) -> Iterator[Any]:
    from confluent_kafka import KafkaError, TopicPartition

    bounds = _bounds(consumer, topic, start, end)
    pending = {part: last for part, (first, last) in bounds.items() if first < last}
    consumer.assign([TopicPartition(topic, part, bounds[part][0]) for part in pending])
    waited = 0.0
    while pending:
        message = consumer.poll(_STEP_S)
        if message is None:
            waited += _STEP_S
            if waited >= _PATIENCE_S:
                raise TimeoutError(f"expected more of {topic}; got nothing for {waited:.0f} s")
            continue
        # Transactions leave offsets without a message, so a range may end before its last offset.
        at_end = message.error() and message.error().code() == KafkaError._PARTITION_EOF
        if message.error() and not at_end:
            raise ConnectionError(f"expected messages of {topic}; got {message.error()}")
        waited, part, following = 0.0, message.partition(), message.offset() + (not at_end)
        if part in pending and not at_end and following <= pending[part]:
            yield message
        if part in pending and following >= pending[part]:
            del pending[part]


def _bounds(consumer: Any, topic: str, start: str, end: str) -> dict[int, tuple[int, int]]:
    found = consumer.list_topics(topic, timeout=_PATIENCE_S).topics[topic]
    if found.error or not found.partitions:
        raise ValueError(f"expected the topic {topic} at the broker; {found.error}")
    return {
        part: (
            _offset(consumer, topic, part, start),
            _offset(consumer, topic, part, end),
        )
        for part in sorted(found.partitions)
    }


def _offset(consumer: Any, topic: str, part: int, bound: str) -> int:
    from confluent_kafka import TopicPartition

    low, high = _watermarks(consumer, TopicPartition(topic, part))
    if bound in ("earliest", "latest"):
        return int(low if bound == "earliest" else high)
    if bound.isdigit():
        return min(max(int(bound), low), high)
    asked = TopicPartition(topic, part, to_ms(bound))
    offset = consumer.offsets_for_times([asked], timeout=_PATIENCE_S)[0].offset
    return int(high if offset < 0 else offset)


def _watermarks(consumer: Any, partition: Any) -> tuple[int, int]:
    """Its first and its next offset; at first the client may not know where to ask."""
    from confluent_kafka import KafkaError, KafkaException

    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=_PATIENCE_S)
        except KafkaException as error:
            unknown = error.args[0].code() == KafkaError._UNKNOWN_PARTITION
            if not unknown or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def to_ms(text: str) -> int:
    """Epoch ms of an ISO time, read as UTC where it names no zone; raises ValueError."""
    try:
        instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"expected an ISO time like 2011-12-01T00:00:00Z; got {text!r}") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=timezone.utc)
    return int(instant.timestamp() * 1000)
