"""Where past events come from: settings that every job which reads them shares."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Literal

from pydantic import Field

from jobs.settings import Settings
from operators.connection import Connection


class EventColumns(Settings):
    """Names of the columns of a Parquet, CSV or JSONL file: what happened."""

    item: str = Field(default="item_id", description="the item")
    time: str = Field(default="event_time", description="when: a number or a timestamp")
    user: str | None = Field(default="user_id", description="the user; null: the session")
    session: str | None = Field(default=None, description="the session; null: cut by silence")
    type: str | None = Field(default=None, description="the event type; null: `event_type`")
    price: str | None = Field(default=None, description="the price")


class KafkaRange(Connection):
    """A bounded range of a topic with user-events."""

    bootstrap: str = Field(default="localhost:9092", description="host:port of a broker")
    topic: str = Field(default="user-events", description="topic that is read")
    start: str = Field(default="earliest", description="earliest, an offset or an ISO time")
    end: str = Field(default="latest", description="latest, an offset or an ISO time; excluded")

    def range(self) -> tuple[dict[str, str], str, str, str]:
        """What `models.event_range` is told: librdkafka's settings, topic, start, end."""
        return self.client(), self.topic, self.start, self.end


class EventSource(Settings):
    """Where events come from, whatever their form."""

    path: str = Field(default="", description="file, folder or URI (s3://, gs://, hdfs://)")
    time_unit: Literal["s", "ms", "us", "ns"] = Field(
        default="ms", description="unit of a time column of numbers"
    )
    event_type: str = Field(default="view_item", description="type where no column tells it")
    kafka: KafkaRange = KafkaRange()


def epoch_ms(time: datetime | None) -> int | None:
    """Epoch ms of a time, read as UTC where it names no zone."""
    if time is None:
        return None
    return int((time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp() * 1000)
