"""Topics that live as long as a replay, and the records that are fed into them, at any pace."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from models.past_events import PastRecord
from operators.broker import Broker, create_topics
from operators.connection import Connection
from operators.kafka import MAX_RECORD_BYTES
from operators.ranges import Range

# Records keep their timestamps, which lie in the past, or in the future of this machine's clock.
_TIMELESS = {
    "retention.ms": "-1",
    "message.timestamp.after.max.ms": str((1 << 63) - 1),
    "max.message.bytes": str(MAX_RECORD_BYTES),
}
_QUEUED = 100_000  # records that may wait to be sent


@contextmanager
def brokers(kafka: Connection) -> Iterator[Connection]:
    """The brokers at `kafka.bootstrap`; if it is empty, one that ends with the block."""
    if kafka.bootstrap:
        yield kafka
        return
    with Broker() as broker:
        yield Connection(bootstrap=broker.bootstrap)


@contextmanager
def staged(kafka: Connection, partitions: dict[str, int]) -> Iterator[dict[str, str]]:
    """New topics of so many partitions, by the kind of what is in them; deleted afterwards."""
    run = uuid.uuid4().hex[:12]
    names = {kind: f"streamrec-replay-{run}-{kind}" for kind in partitions}
    wanted = {names[kind]: number for kind, number in partitions.items()}
    create_topics(kafka.client(), wanted, _TIMELESS)
    try:
        yield names
    finally:
        admin = AdminClient({**kafka.client(), "log_level": 2})
        for deleted in admin.delete_topics([*wanted], operation_timeout=30).values():
            deleted.result(timeout=30)


def ranges_of(records: Sequence[PastRecord], partitions: int) -> dict[int, Range]:
    """The offsets that the records will have in a new topic."""
    counts = Counter(record.partition for record in records)
    return {number: (0, counts[number]) for number in range(partitions)}


class Feeder(threading.Thread):
    """Sends records in order: as fast as it goes, or each at its time, `speed` times real time.

    A late one keeps its turn. If the brokers refuse one, the process gets SIGTERM, since a job
    that reads the topic to a known end would wait for ever; `finish` then says why.
    """

    def __init__(
        self, kafka: Connection, topic: str, records: Sequence[PastRecord], speed: float | None
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self._topic, self._records, self._speed = topic, records, speed
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._producer = Producer(
            {
                **kafka.client(),
                "enable.idempotence": True,  # a retry neither reorders nor repeats
                "message.max.bytes": MAX_RECORD_BYTES,
                "queue.buffering.max.messages": _QUEUED,
                "compression.type": "lz4",
                "linger.ms": 5,
                "log_level": 2,
            }
        )

    def run(self) -> None:
        try:
            self._feed()
        except Exception as error:  # told by `finish`, in the main thread
            self._error = error
            signal.raise_signal(signal.SIGTERM)

    def finish(self) -> None:
        """Send no more, and raise what went wrong."""
        self._stopping.set()
        if self.ident is not None:
            self.join()
        if self._error is not None:
            raise self._error

    def _feed(self) -> None:
        began = time.monotonic()
        for record in self._records:
            if self._speed is not None:
                ahead_s = (record.place - self._records[0].place) / 1000 / self._speed
                self._stopping.wait(max(began + ahead_s - time.monotonic(), 0))
            if self._stopping.is_set():
                return
            self._send(record)
        left = self._producer.flush(60)
        self._raise_refusal()
        if left:
            raise ConnectionError(f"expected the brokers to take every record; {left} are left")

    def _send(self, record: PastRecord) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key,
                    record.partition,
                    timestamp=record.received,
                    headers=list(record.headers),
                    on_delivery=self._delivered,
                )
                break
            except BufferError:  # the queue is full
                self._producer.poll(0.1)
        self._producer.poll(0)
        self._raise_refusal()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = KafkaException(error)

    def _raise_refusal(self) -> None:
        if self._error is not None:
            raise self._error
