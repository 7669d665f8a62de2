"""Tells topic model-updates what was decided about bundles: every decision at least once."""

from __future__ import annotations

import os
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

from models.history import Decision, History, encoded
from operators.kafka import Kafka
from udfs.events import rfc3339

_PATIENCE_S = 30.0


def announce(kafka: Kafka, topic: str, history: History, folder: Path) -> int:
    """Send the decisions that were not sent yet; returns how many.

    `folder`/announced holds the newest sequence that was sent: after a crash, some are sent again,
    with the same content. Raises ConnectionError if the broker does not take them all.
    """
    said = folder / "announced"
    before = int(said.read_text()) if said.exists() else 0
    new = [each for each in history.decisions if each.sequence > before]
    if not new:
        return 0
    producer = Producer({**kafka.client(), "enable.idempotence": True})
    problems: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            problems.append(str(error))

    for decision in new:
        producer.produce(
            topic,
            encoded(decision),
            decision.bundle_version.rpartition("-")[0],
            headers=_headers(decision),
            on_delivery=delivered,
        )
    if producer.flush(_PATIENCE_S) or problems:
        raise ConnectionError(
            f"expected {topic} to take {len(new)} decisions; {problems[:1] or 'no answer'}; "
            "they are sent again the next time"
        )
    aside = folder / "announced.new"
    aside.write_text(str(new[-1].sequence))
    os.replace(aside, said)
    return len(new)


def _headers(decision: Decision) -> dict[str, str | bytes | None]:
    """CloudEvents in binary mode, like those of `operators.sql.cloud_event`."""
    return {
        "ce_specversion": "1.0",
        "ce_id": f"{decision.sequence}:{decision.bundle_version}",
        "ce_type": "streamrec.model-update",
        "ce_source": "streamrec",
        "ce_time": rfc3339(decision.active_from),
        "content-type": "application/json",
    }
