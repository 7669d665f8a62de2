"""Look before a job starts whether the brokers answer and the topics are there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from rich.console import Console

from operators.broker import create_topics
from operators.kafka import Kafka
from udfs.events import MAX_AHEAD_MS

NEW_PARTITIONS = 4


class TopicsError(ValueError):
    """The brokers or a topic cannot be reached; says which and what to do."""


def require_topics(kafka: Kafka, names: Iterable[str], timeout_s: float = 10.0) -> None:
    """Raise `TopicsError` unless every topic exists, or create those that do not if so set."""
    refusals: list[str] = []

    def noted(error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            refusals.append(error.str())

    settings: dict[str, Any] = {"log_level": 0, "log.connection.close": False, "error_cb": noted}
    admin = AdminClient(kafka.client() | settings)
    try:
        existing = admin.list_topics(timeout=timeout_s).topics
    except KafkaException:
        admin.poll(0)  # calls `noted`
        if refusals:
            raise TopicsError(
                f"expected to be let in by the brokers at {kafka.bootstrap}; {refusals[0]}. "
                "Set kafka.security"
            ) from None
        raise TopicsError(
            f"expected a Kafka broker at {kafka.bootstrap}; none answered within {timeout_s:g} s. "
            "Set kafka.bootstrap, or start one: ./scripts/broker start"
        ) from None
    missing = [name for name in names if name not in existing]
    if missing and kafka.create_topics:
        create_topics(kafka.client(), dict.fromkeys(missing, NEW_PARTITIONS))
    elif missing:
        raise TopicsError(
            f"expected the topics {', '.join(missing)} at {kafka.bootstrap}; they do not exist, "
            "or may not be seen. Create them, or set kafka.create_topics=true"
        )


def warn_of_clocks(kafka: Kafka, names: Iterable[str], timeout_s: float = 10.0) -> None:
    """Say on stderr which topics take timestamps that a producer's wrong clock has set far ahead.

    Its events would pass for events of now and move the watermark, so that those of all others are
    late. Says nothing of topics whose settings the job may not see.
    """
    admin = AdminClient(kafka.client() | {"log_level": 0})
    wanted = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    for topic, answer in admin.describe_configs(wanted, request_timeout=timeout_s).items():
        try:
            settings = {name: entry.value for name, entry in answer.result(timeout_s).items()}
        except KafkaException:
            continue
        ahead_ms = settings.get("message.timestamp.after.max.ms")  # brokers before 3.6 have none
        by_broker = settings.get("message.timestamp.type") == "LogAppendTime"
        if not by_broker and (ahead_ms is None or int(ahead_ms) > MAX_AHEAD_MS):
            Console(stderr=True, highlight=False).print(
                f"[yellow]Note:[/] a producer of {topic.name} whose clock is ahead makes the "
                "events of all others late. Set message.timestamp.type=LogAppendTime for the "
                f"topic, or message.timestamp.after.max.ms={MAX_AHEAD_MS}."
            )
