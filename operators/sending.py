"""Records that this process itself writes to Kafka, and what the brokers refused of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import Message, Producer

from operators.connection import Connection
from operators.kafka import MAX_RECORD_BYTES


class Outgoing(NamedTuple):
    """A record and the topic that it goes to."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def send(
    kafka: Connection, records: Iterable[Outgoing], options: Mapping[str, str | int] | None = None
) -> list[str]:
    """Write records in order, wait until the brokers have them; returns why some were refused.

    However many there are: where the queue is full it is waited for. `options` are further ones
    of the producer.
    """
    refused: list[str] = []

    def delivered(error: object, _: Message) -> None:
        if error is not None:
            refused.append(str(error))

    own: dict[str, str | int] = {
        "enable.idempotence": True,
        "message.max.bytes": MAX_RECORD_BYTES,
        "compression.type": "lz4",
    }
    producer = Producer(dict(kafka.client()) | own | dict(options or {}))
    for record in records:
        while True:
            try:
                producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                    on_delivery=delivered,
                )
                break
            except BufferError:  # the queue is full
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()
    return refused
