"""Kafka tables: the sources and sinks of every job, with bytes, origin and headers kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from operators.connection import Connection
from operators.sql import interval, quoted
from udfs.events import EARLIEST_MS, FIELD_ALIASES, MAX_AHEAD_MS

if TYPE_CHECKING:
    from pyflink.table import TableEnvironment

MAX_RECORD_BYTES = 16 << 20  # a dead letter must fit although its record was over 1 MiB
# Of one partition at a time (a larger record still comes): in a backlog the partitions take
# turns, so that none looks idle and its events late while the reader is busy with the others.
FETCH_BYTES = 256 << 10
UNHURRIED = {"fetch.min.bytes": "65536", "fetch.max.wait.ms": "100"}
"""Properties of a source nobody waits for: a request for each event costs more than the event."""


class Kafka(Connection):
    """Where the brokers are and how the job reads from them."""

    group: str = Field("streamrec", min_length=1, description="consumer group, one a job")
    start: Literal["earliest", "latest", "committed"] = Field(
        "committed", description="where a first start reads from; committed falls back to earliest"
    )
    create_topics: bool = Field(
        False, description="create missing topics, with 4 partitions and no replica"
    )
    bounded: bool = Field(False, description="stop at the offsets that are newest at the start")


class Delivery(BaseModel):
    """How a job's sinks deliver; a mixin of its settings."""

    delivery: Literal["at-least-once", "exactly-once"] = Field(
        "at-least-once", description="exactly-once: in transactions, for read_committed readers"
    )
    transaction_timeout_s: float = Field(
        900,
        ge=1,
        le=2_147_483,
        description="seconds of outage after which the broker gives up what was not committed",
    )


class DeliveryError(ValueError):
    """Why the sinks cannot deliver as set; says what to do."""


def require_transactions(
    kafka: Kafka, delivery: Delivery, checkpoint_interval_s: float, timeout_s: float = 10.0
) -> None:
    """Raise `DeliveryError` where the broker would refuse the sinks' transactions, if any."""
    if delivery.delivery == "at-least-once":
        return
    told = f"transactions of {delivery.transaction_timeout_s:g} s (transaction_timeout_s)"
    if delivery.transaction_timeout_s < 2 * checkpoint_interval_s:
        raise DeliveryError(
            f"{told} may end before they are committed: a checkpoint comes every "
            f"{checkpoint_interval_s:g} s. Give them at least twice as long"
        )
    from confluent_kafka import KafkaException, Producer

    milliseconds = round(delivery.transaction_timeout_s * 1000)
    producer = Producer(
        {
            **kafka.client(),
            "transactional.id": f"{kafka.group}-start",
            "transaction.timeout.ms": milliseconds,
            "log_level": 0,
        }
    )
    try:
        producer.init_transactions(timeout_s)
    except KafkaException as error:
        raise DeliveryError(
            f"the broker at {kafka.bootstrap} refuses {told}: {error.args[0].str()}. Set less, or "
            "raise the broker's transaction.max.timeout.ms"
        ) from None


_START = {
    "earliest": "'scan.startup.mode' = 'earliest-offset'",
    "latest": "'scan.startup.mode' = 'latest-offset'",
    "committed": (
        "'scan.startup.mode' = 'group-offsets', 'properties.auto.offset.reset' = 'earliest'"
    ),
}


# Epoch milliseconds of a TIMESTAMP_LTZ(3); counted from 2000 so that TIMESTAMPDIFF's INT holds.
RECEIVED_MS = (
    "(946684800000 + 1000 * CAST(TIMESTAMPDIFF(SECOND, "
    "TO_TIMESTAMP_LTZ(946684800000, 3), `received`) AS BIGINT)"
    " + EXTRACT(MILLISECOND FROM `received`))"
)


def event_time_ms() -> str:
    """SQL for the event time of a raw record; the year 2000 where `udfs.events` refuses it.

    Flink can push this into the Kafka source, which then has a watermark of its own for each
    partition: reading a backlog makes no event late that was not. The bounds keep a record from
    the year 2099 from moving the watermark. A test holds it to `udfs.events.decode`.
    """
    names = ("event_time", *FIELD_ALIASES["event_time"])
    found = ", ".join(f"JSON_VALUE(CAST(`value` AS STRING), '$.{name}')" for name in names)
    since = f"TRY_CAST(COALESCE({found}) AS BIGINT) - {EARLIEST_MS}"
    beyond = f"({RECEIVED_MS} + {MAX_AHEAD_MS + 1 - EARLIEST_MS})"
    # MOD sends what is beyond the bound to 0; a CASE would parse the JSON once for each branch.
    return f"{EARLIEST_MS} + COALESCE(MOD(GREATEST(LEAST({since}, {beyond}), 0), {beyond}), 0)"


def raw_source(
    env: TableEnvironment,
    name: str,
    topic: str,
    kafka: Kafka,
    out_of_order_s: float | None = None,
    properties: dict[str, str] | None = None,
    ranges: Mapping[int, tuple[int, int]] | None = None,
) -> None:
    """Register topic `topic` as table `name`: raw bytes with their origin, nothing decoded.

    Columns: key, value BYTES; headers MAP<STRING, BYTES>; topic; partition; offset; received;
    and rowtime, with a watermark `out_of_order_s` behind the newest event, where that is given.
    `properties` are settings of the Kafka consumer; `ranges` (first and last + 1 of the offsets of
    every partition) are read instead of what `kafka` says, and then the table ends.
    """
    consumer = {
        "group.id": kafka.group,
        "isolation.level": "read_committed",
        "max.partition.fetch.bytes": str(FETCH_BYTES),
    }
    options = _properties(kafka.connector() | consumer | (properties or {}))
    time = ""
    if out_of_order_s is not None:
        time = f""",
            `rowtime` AS TO_TIMESTAMP_LTZ({event_time_ms()}, 3),
            WATERMARK FOR `rowtime` AS `rowtime` - {interval(out_of_order_s)}"""
    bounded = ", 'scan.bounded.mode' = 'latest-offset'" if kafka.bounded else ""
    start = _START[kafka.start] + bounded if ranges is None else _between(ranges)
    env.execute_sql(f"""
        CREATE TEMPORARY TABLE `{name}` (
            `key` BYTES,
            `value` BYTES,
            `headers` MAP<STRING, BYTES> METADATA VIRTUAL,
            `topic` STRING METADATA VIRTUAL,
            `partition` INT METADATA VIRTUAL,
            `offset` BIGINT METADATA VIRTUAL,
            `received` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL{time}
        ) WITH (
            'connector' = 'kafka',
            'topic' = {quoted(topic)},
            {options},
            {start},
            'key.format' = 'raw', 'key.fields' = 'key',
            'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY'
        )""")


def raw_sink(
    env: TableEnvironment,
    name: str,
    topic: str,
    kafka: Kafka,
    properties: dict[str, str] | None = None,
    delivery: Delivery | None = None,
) -> None:
    """Register topic `topic` as sink `name` with columns key, value BYTES and headers.

    `properties` are settings of the Kafka producer, for instance {"linger.ms": "1"}. Without
    `delivery` it is at-least-once. The names of its transactions begin with the consumer group
    and `name`: they must be the same after a restart, and of no other sink.
    """
    producer = {"max.request.size": str(MAX_RECORD_BYTES), "compression.type": "lz4"}
    exactly_once = ""
    if delivery is not None and delivery.delivery == "exactly-once":
        milliseconds = round(delivery.transaction_timeout_s * 1000)
        producer["transaction.timeout.ms"] = str(milliseconds)
        exactly_once = f""",
            'sink.delivery-guarantee' = 'exactly-once',
            'sink.transactional-id-prefix' = {quoted(f"{kafka.group}-{name}")}"""
    options = _properties(kafka.connector() | producer | (properties or {}))
    env.execute_sql(f"""
        CREATE TEMPORARY TABLE `{name}` (
            `key` BYTES,
            `value` BYTES,
            `headers` MAP<STRING, BYTES> METADATA
        ) WITH (
            'connector' = 'kafka',
            'topic' = {quoted(topic)},
            {options}{exactly_once},
            'key.format' = 'raw', 'key.fields' = 'key',
            'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY'
        )""")


def _between(ranges: Mapping[int, tuple[int, int]]) -> str:
    bounds = (
        ";".join(f"partition:{number},offset:{pair[side]}" for number, pair in ranges.items())
        for side in (0, 1)
    )
    return ", ".join(
        f"'scan.{name}' = 'specific-offsets', 'scan.{key}.specific-offsets' = '{offsets}'"
        for (name, key), offsets in zip(
            (("startup.mode", "startup"), ("bounded.mode", "bounded")), bounds, strict=True
        )
    )


def _properties(properties: Mapping[str, str]) -> str:
    return ", ".join(f"'properties.{key}' = {quoted(value)}" for key, value in properties.items())
