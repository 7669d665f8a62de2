"""What a job says of its topics before it starts."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, Producer

from operators.broker import Broker
from operators.kafka import Kafka
from operators.topics import warn_of_clocks
from tests.kafka import now_ms

AS_KAFKA_HAS_IT = {"message.timestamp.after.max.ms": "3600000"}


@pytest.mark.parametrize(
    ("topic", "config", "warned"),
    [
        ("as-ours-has-it", {}, False),
        ("as-kafka-has-it", AS_KAFKA_HAS_IT, True),
        ("by-brokers", AS_KAFKA_HAS_IT | {"message.timestamp.type": "LogAppendTime"}, False),
    ],
)
def test_topics_whose_producers_could_make_all_others_late_are_told(
    broker: Broker,
    capsys: pytest.CaptureFixture[str],
    topic: str,
    config: dict[str, str],
    warned: bool,
) -> None:
    broker.create_topics({topic: 1}, config)
    warn_of_clocks(Kafka(bootstrap=broker.bootstrap), [topic])
    told = capsys.readouterr().err
    assert (topic in told) is warned, told


def test_the_embedded_broker_refuses_a_producer_whose_clock_is_half_an_hour_ahead(
    broker: Broker,
) -> None:
    broker.create_topics({"clocks": 1})
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    refused: list[KafkaError | None] = []
    for minutes in (5, 30):
        producer.produce(
            "clocks",
            b"{}",
            timestamp=now_ms() + minutes * 60_000,
            on_delivery=lambda error, _: refused.append(error),
        )
        producer.flush(30)
    sound, ahead = refused
    assert sound is None
    assert ahead is not None
    assert ahead.code() == KafkaError.INVALID_TIMESTAMP
