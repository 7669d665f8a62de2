"""Which history is replayed, how fast, with what, and where the lists go."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from jobs.recommend import Answers
from jobs.sources import EventColumns, EventSource
from models.list_files import SUFFIXES
from operators.connection import Connection
from operators.environment import Engine


class PastColumns(EventColumns):
    """Names of the columns of a Parquet, CSV or JSONL file."""

    event_id: str | None = Field(default=None, description="the id of the event; null: a hash")


class PastSource(EventSource):
    """Where the history is."""

    format: Literal["parquet", "csv", "jsonl", "messages", "kafka", "online_retail"] = Field(
        default="parquet",
        description="parquet, csv, jsonl (by `columns`), messages (a file of user-events), "
        "kafka, or the open data set online_retail",
    )
    columns: PastColumns = PastColumns()


class ReplaySettings(Answers, Connection):
    """Settings of the replay job."""

    source: PastSource = PastSource()
    since: datetime | None = Field(None, description="ISO time of the first event; null: all")
    until: datetime | None = Field(None, description="ISO time after the last event; null: all")
    speed: float | None = Field(None, gt=0, description="times real time; null: as fast as it goes")
    out_of_order_s: float = Field(
        10, ge=0, description="seconds the watermark is behind the newest event"
    )
    output: str | None = Field(
        "replay/lists.jsonl",
        description="path or URI of a .jsonl or .parquet file; null: into the topics",
    )
    bootstrap: str = Field(
        "", description="host:port of the brokers to work with; empty: one for the replay alone"
    )
    recommendations_topic: str = Field(
        "replayed-recommendations", description="topic of the lists, where there is no output"
    )
    dead_letters_topic: str = Field(
        "replayed-dead-letters", description="topic of what is no event, where there is no output"
    )
    create_topics: bool = Field(False, description="create these topics if they are missing")
    report: Path | None = Field(
        None, description="HTML file that says how good the lists were; needs matplotlib"
    )
    engine: Engine = Engine(profile="throughput")

    @field_validator("output")
    @classmethod
    def _has_a_known_form(cls, output: str | None) -> str | None:
        if output is not None and not output.endswith(SUFFIXES):
            raise ValueError(f"expected a file that ends with {' or '.join(SUFFIXES)}")
        return output

    @model_validator(mode="after")
    def _goes_somewhere(self) -> ReplaySettings:
        if not self.output and not self.bootstrap:
            raise ValueError("expected `output`, or `bootstrap` of the brokers to write to")
        if not self.output and self.report:
            raise ValueError("expected `output` where there is a `report`: it reads the file")
        return self
