"""Records out at a steady rate, lists in: an open loop, so that a slow answer delays nothing.

A list's latency counts from the moment its event was due to be sent until the list was read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from jobs.demo.processes import DemoError
from jobs.demo.stream import Record

EVENTS, LISTS = "user-events", "recommendations"
MAX_RECORD_BYTES = 16 << 20


class ListItem(msgspec.Struct):
    """What the demo reads of an item of a list."""

    item_id: str
    source: str
    reasons: list[str]


class RankedMessage(msgspec.Struct):
    """What the demo reads of a record on `recommendations`."""

    trigger_event_id: str
    user_id: str
    items: list[ListItem]
    served_by: str


class Sender:
    """Sends records to user-events, each at its time."""

    def __init__(self, bootstrap: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 0,
                "enable.idempotence": True,  # a retry neither reorders nor repeats
                "log_level": 2,  # what goes wrong is told by `flush`
                "message.max.bytes": MAX_RECORD_BYTES,
            }
        )
        self.sent = 0
        self.due: dict[str, float] = {}  # event_id → when it was to be sent first
        self.refused: list[str] = []
        self.error: Exception | None = None

    def send(self, record: Record, due: float) -> None:
        """Hand one record to Kafka; `due` is a time of the clock, in seconds."""
        self.due.setdefault(record.event_id, due)
        self._producer.produce(
            EVENTS, key=record.key, value=record.value, on_delivery=self._delivered
        )
        self._producer.poll(0)
        self.sent += 1

    def send_all(self, records: Sequence[Record]) -> None:
        """Send at once, as fast as it goes."""
        for record in records:
            self.send(record, self._clock())

    def send_paced(self, records: Sequence[Record], rate: float, stop: threading.Event) -> None:
        """Send record k at k / rate seconds from now, late ones at once, until `stop` is set."""
        began = self._clock()
        try:
            for number, record in enumerate(records):
                due = began + number / rate
                wait = due - self._clock()
                if wait > 0 and stop.wait(wait):
                    return
                self.send(record, due)
        except Exception as error:  # the main thread tells it
            self.error = error

    def flush(self) -> None:
        """Wait until Kafka has taken all of them."""
        left = self._producer.flush(10)
        if left or self.refused:
            reason = self.refused[0] if self.refused else "no answer within 10 s"
            count = left + len(self.refused)
            raise DemoError(f"the broker did not take {count} records: {reason}")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.refused.append(str(error))


class Reader(threading.Thread):
    """Reads recommendations as they come; calls `arrived(message, time)` in its own thread."""

    def __init__(
        self,
        bootstrap: str,
        partitions: int,
        arrived: Callable[[RankedMessage, float], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(name="list-reader", daemon=True)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "streamrec-demo-reader",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "log_level": 2,
            }
        )
        self._consumer.assign([TopicPartition(LISTS, number, 0) for number in range(partitions)])
        self._arrived, self._clock = arrived, clock
        self._decode = msgspec.json.Decoder(RankedMessage).decode
        self._stopping = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        """Read until `stop`."""
        try:
            while not self._stopping.is_set():
                message = self._consumer.poll(0.1)
                if message is not None and not message.error():
                    now = self._clock()
                    self._arrived(self._decode(message.value() or b""), now)
        except Exception as error:  # the main thread tells it
            self.error = error
        finally:
            self._consumer.close()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        if self.is_alive():
            self.join(10)


def sizes(bootstrap: str, topics: Mapping[str, int]) -> dict[str, int]:
    """How many records each topic holds; `topics` maps names to numbers of partitions."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "streamrec-demo-sizes"})
    try:
        ranges = {
            name: [
                consumer.get_watermark_offsets(TopicPartition(name, number), timeout=10)
                for number in range(partitions)
            ]
            for name, partitions in topics.items()
        }
    finally:
        consumer.close()
    return {name: sum(high - low for low, high in pairs) for name, pairs in ranges.items()}
