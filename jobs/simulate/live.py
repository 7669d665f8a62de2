"""The population on Kafka: events out at a steady rate, lists in.

An open loop: event k is due k / rate seconds after the start, whatever becomes of the lists. While
it waits for that moment, the same thread reads lists, so that a turn sees all that came before it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from jobs.simulate.crowd import Crowd
from jobs.simulate.population import Offer, ShopperEvent
from jobs.simulate.settings import SimulateSettings

PATIENCE_S = 10.0
STEP_S = 0.1  # how soon Ctrl-C is noticed
TOLD_EVERY_S = 5.0


class SimulateError(RuntimeError):
    """The run can not go on; the message says why."""


class LiveRun:
    """Sends the crowd's events and hands it the lists until the end or until `stop` is set."""

    def __init__(self, settings: SimulateSettings, crowd: Crowd, stop: threading.Event) -> None:
        self.settings, self.crowd, self._stop = settings, crowd, stop
        self.unreadable = 0  # records on `recommendations` that are no lists
        self.refused: list[str] = []  # events that Kafka did not take, with the reason
        self._decode = msgspec.json.Decoder(Offer).decode
        self._encode = msgspec.json.Encoder().encode
        common = settings.kafka.client() | {"log_level": 2}
        self._producer = Producer(
            {
                **common,
                "linger.ms": 0,
                "enable.idempotence": True,  # a retry neither reorders nor repeats
                "delivery.timeout.ms": 30_000,
            }
        )
        self._consumer = Consumer(
            {
                **common,
                "group.id": "streamrec-simulate",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
            }
        )

    def run(self, told: Callable[[float], None]) -> None:
        """Send until the end; `told` is called with the seconds from time to time.

        Raises SimulateError where Kafka can not be reached or takes no events.
        """
        try:
            self._from_the_end()
            self._send_all(told)
        except (KafkaException, BufferError) as error:  # the latter: the queue to Kafka is full
            raise SimulateError(f"simulate lost its connection to Kafka: {error}") from None
        finally:
            self._consumer.close()

    def _from_the_end(self) -> None:
        """Read lists that come from now on, from every partition."""
        topic = self.settings.recommendations_topic
        places = []
        for number in self._consumer.list_topics(topic, PATIENCE_S).topics[topic].partitions:
            place = TopicPartition(topic, number)
            place.offset = self._consumer.get_watermark_offsets(place, PATIENCE_S)[1]
            places.append(place)
        self._consumer.assign(places)

    def _send_all(self, told: Callable[[float], None]) -> None:
        began, next_told = time.perf_counter(), 0.0
        for number in range(self.settings.count) if self.settings.count else itertools.count():
            due = number / self.settings.rate
            self._read_until(began + due)
            if self._stop.is_set() or self.refused:
                break
            self._send(self.crowd.turn())
            if due >= next_told:
                told(due)
                next_told += TOLD_EVERY_S
        for event in self.crowd.finish():
            self._read_until(began + (self.crowd.sent - 1) / self.settings.rate)
            self._send(event)
        self._flush()

    def _read_until(self, moment: float) -> None:
        """Take the lists that come until then; at least those that are here."""
        while True:
            wait = min(max(moment - time.perf_counter(), 0.0), STEP_S)
            for message in self._consumer.consume(1000, wait):
                self._take(message)
            if time.perf_counter() >= moment or self._stop.is_set():
                return

    def _take(self, message: Message) -> None:
        if message.error():  # librdkafka goes on by itself
            return
        try:
            self.crowd.offer(self._decode(message.value() or b""))
        except msgspec.MsgspecError:
            self.unreadable += 1

    def _send(self, event: ShopperEvent) -> None:
        self._producer.produce(
            self.settings.events_topic,
            key=event.user_id,
            value=self._encode(event),
            on_delivery=self._delivered,
        )
        self._producer.poll(0)

    def _flush(self) -> None:
        left = self._producer.flush(PATIENCE_S)
        if left or self.refused:
            reason = self.refused[0] if self.refused else f"no answer within {PATIENCE_S:.0f} s"
            raise SimulateError(
                f"simulate ended: {left + len(self.refused)} events did not reach Kafka: {reason}"
            )

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.refused.append(str(error))
