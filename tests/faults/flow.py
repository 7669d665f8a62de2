"""Events of shoppers at a steady pace, sent by a thread through whatever happens to brokers."""

from __future__ import annotations

import threading
import time

from confluent_kafka import KafkaError, Producer

from operators.kafka import MAX_RECORD_BYTES
from tests.kafka import Record

FLUSH_S = 300


class Flow:
    """Sends records in order, `rate` a second (which may change), until stopped or at their end."""

    def __init__(self, bootstrap: str, topic: str, records: list[Record], rate: float) -> None:
        self.sent: list[Record] = []
        self.arrived = 0  # of them, at the broker
        self.topic, self.rate = topic, rate
        self._records = records
        self._stopping = threading.Event()
        self._refused: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,  # keeps the order, and sends nothing twice
                "message.timeout.ms": 0,  # however long a broker is away
                "reconnect.backoff.max.ms": 1000,
                "linger.ms": 5,
                "message.max.bytes": MAX_RECORD_BYTES,
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._send, name=f"flow-{topic}", daemon=True)
        self._thread.start()

    def wait_for(self, more: int) -> None:
        """Wait until so many more records were sent."""
        goal = len(self.sent) + more
        while len(self.sent) < goal:
            assert self._thread.is_alive(), f"the flow ended after {len(self.sent)} records"
            time.sleep(0.05)

    def finish(self) -> list[Record]:
        """Wait until the last record was sent and the broker has all; returns them."""
        self._thread.join()
        return self.stop()

    def end(self) -> None:
        """Send no more."""
        self._stopping.set()

    def stop(self) -> list[Record]:
        """Stop and wait until the broker has all; returns what was sent, in order."""
        self.end()
        self._thread.join()
        left = self._producer.flush(FLUSH_S)
        assert left == 0, f"{left} records were not sent within {FLUSH_S} s"
        assert not self._refused, f"the broker refused {self._refused[0]}"
        return self.sent

    def _send(self) -> None:
        due = time.monotonic()
        for record in self._records:
            if self._stopping.is_set():
                return
            self._producer.produce(
                self.topic,
                record.value,
                record.key,
                headers=[*record.headers],
                timestamp=record.sent_ms,
                on_delivery=self._note,
            )
            self._producer.poll(0)
            self.sent.append(record)
            due += 1 / self.rate
            self._stopping.wait(max(due - time.monotonic(), 0))

    def _note(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._refused.append(str(error))
        else:
            self.arrived += 1
