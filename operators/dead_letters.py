"""Read the dead-letter topic and send records back to where they came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from operators.connection import Connection
from operators.kafka import MAX_RECORD_BYTES
from operators.sending import Outgoing, send

PREFIXES = ("__dead_letter.", "__late_event.")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record as it stands on the dead-letter topic."""

    partition: int  # of the dead-letter topic
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]  # the original ones
    origin: dict[str, str]  # topic, partition, offset, stage, reason

    @classmethod
    def of(cls, message: Message) -> DeadLetter:
        """Split a record's headers into the original ones and those that tell its origin."""
        kept: list[tuple[str, bytes | None]] = []
        origin: dict[str, str] = {}
        headers: Any = message.headers() or []
        for name, text in headers:
            value = text.encode() if isinstance(text, str) else text
            prefix = next((p for p in PREFIXES if name.startswith(p)), None)
            if prefix is None:
                kept.append((name, value))
            else:
                origin[name.removeprefix(prefix)] = (value or b"").decode("utf-8", "replace")
        return cls(
            message.partition() or 0,
            message.offset() or 0,
            message.key(),
            message.value(),
            tuple(kept),
            origin,
        )


def read(kafka: Connection, topic: str, timeout_s: float = 10.0) -> Iterator[DeadLetter]:
    """Yield the records of `topic` up to its present end, partition by partition.

    Nothing is committed: reading again gives the same records.
    """
    consumer = Consumer(
        {
            **kafka.client(),
            "group.id": "streamrec-dead-letters-reader",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": MAX_RECORD_BYTES,
            "receive.message.max.bytes": 10 * MAX_RECORD_BYTES,
        }
    )
    try:
        for partition in _partitions(consumer, topic, timeout_s):
            yield from _read_partition(consumer, partition, timeout_s)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str, timeout_s: float) -> list[TopicPartition]:
    found = consumer.list_topics(topic, timeout_s).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return [TopicPartition(topic, number) for number in sorted(found.partitions)]


def _read_partition(
    consumer: Consumer, partition: TopicPartition, timeout_s: float
) -> Iterator[DeadLetter]:
    low, high = consumer.get_watermark_offsets(partition, timeout_s)
    if low >= high:
        return
    consumer.assign([TopicPartition(partition.topic, partition.partition, low)])
    while True:
        message = consumer.poll(timeout_s)
        if message is None:
            return
        if message.error():
            raise KafkaException(message.error())
        letter = DeadLetter.of(message)
        yield letter
        if letter.offset + 1 >= high:
            return


def resend(kafka: Connection, letters: Iterable[DeadLetter]) -> int:
    """Send each record to its original topic with its original key, value and headers.

    Returns how many were sent; raises `KafkaException` where the broker refused one.
    """
    count, stray = 0, list[str]()

    def known() -> Iterator[Outgoing]:
        nonlocal count
        for letter in letters:
            count += 1
            if topic := letter.origin.get("topic"):
                yield Outgoing(topic, letter.value, letter.key, letter.headers)
            else:
                stray.append(f"{letter.partition}:{letter.offset} does not say where it came from")

    refused = send(kafka, known()) + stray
    if refused:
        raise KafkaException(f"{len(refused)} of {count} records were refused: {refused[0]}")
    return count
