"""Two readers of a topic, as users have them: one runs through the faults, one begins afterwards.

Both read only what is committed, in the order of each partition.
"""

from __future__ import annotations

import threading
from collections import defaultdict

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from operators.kafka import MAX_RECORD_BYTES
from tests.kafka import PATIENCE_S, Record, wait_for


class Watch:
    """A read_committed reader of a topic from its start, in a thread, whatever happens to brokers.

    It reads until it is closed.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self._consumer = _consumer(bootstrap)
        partitions = self._consumer.list_topics(topic, 30).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        self._to_end = set(partitions)
        self._records: dict[int, list[Record]] = defaultdict(list)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"watch-{topic}", daemon=True)
        self._thread.start()

    @property
    def reached_the_end(self) -> bool:
        """Whether every partition was read to the end that it had then."""
        return not self._to_end

    def records(self) -> list[Record]:
        """What was read so far: partition by partition, in order."""
        with self._lock:
            return [each for number in sorted(self._records) for each in self._records[number]]

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._closing.is_set():
            message = self._consumer.poll(0.2)
            if message is not None:
                self._take(message)

    def _take(self, message: Message) -> None:
        error = message.error()
        with self._lock:
            if error is None:
                place = (message.partition() or 0, message.offset() or 0)
                headers = list(message.headers() or [])
                record = Record(message.value(), message.key(), headers, *place)  # type: ignore[arg-type]
                self._records[place[0]].append(record)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._to_end.discard(message.partition() or 0)


def committed(bootstrap: str, topic: str) -> list[Record]:
    """What a reader that begins now finds in the topic: partition by partition, in order."""
    watch = Watch(bootstrap, topic)
    try:
        wait_for(lambda: watch.reached_the_end, PATIENCE_S, f"the end of {topic}")
        return watch.records()
    finally:
        watch.close()


def hanging(bootstrap: str, topic: str) -> int:
    """Records behind the last stable offset: held back by transactions that did not end."""
    held = 0
    with_all, stable = _consumer(bootstrap, "read_uncommitted"), _consumer(bootstrap)
    try:
        for number in stable.list_topics(topic, 30).topics[topic].partitions:
            place = TopicPartition(topic, number)
            held += with_all.get_watermark_offsets(place, 30)[1]
            held -= stable.get_watermark_offsets(place, 30)[1]
    finally:
        with_all.close()
        stable.close()
    return held


def _consumer(bootstrap: str, isolation: str = "read_committed") -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "faults",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "reconnect.backoff.max.ms": 1000,
            "fetch.message.max.bytes": MAX_RECORD_BYTES,
            "receive.message.max.bytes": 10 * MAX_RECORD_BYTES,
            "log_level": 0,  # brokers that go away are what is tested
        }
    )
