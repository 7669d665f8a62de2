"""What is to be replayed: records of a stretch of history, in the order in which they count.

Parquet, CSV, JSONL (rows, by columns) ─┐
messages (a file of user-events) ───────┼─ one order by event time ─ Past records
a range of a Kafka topic ───────────────┘

Rows have no order of arrival: they are sorted by time, those of one time stay as they stand, and
none is late. Messages and topics have one, and live answers hang on it: a record that came behind
newer ones is replayed behind them. Its `place` is the newest event time of its partition when it
came, which is what the watermark follows.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.datasets import online_retail_lines
from models.event_files import Columns, file_system, prices_of, table_of, times_of
from models.event_range import messages
from udfs.events import EARLIEST_MS, Event, InvalidEventError, decode

PARTITIONS = 4  # of what has none: a user is in one of them
LATEST_MS = EARLIEST_MS + (1 << 31) * 1000 - 1  # 2068: as far as Flink's SQL counts seconds

Headers = list[tuple[str, bytes | None]]
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class PastRecord:
    """A record as it is to be sent again."""

    place: int  # epoch ms: when it is its turn
    partition: int
    number: int  # of the row, the line or the offset that it was, counted from 0
    key: bytes | None
    value: bytes | None
    received: int  # epoch ms: its Kafka timestamp; of a file, the event's own time
    headers: Headers


def past_rows(
    path: str, format: str, columns: Columns, event_id: str | None, unit: str, event_type: str
) -> list[PastRecord]:
    """Rows of Parquet, CSV or JSONL (json) files as messages, by time.

    Rows that are no events become messages that are none, and so dead letters of the replay.
    Where no column has `event_id`s, they are hashes of what happened, and of how often it did at
    that time: the same event has the same id in whatever file. Raises ValueError for columns
    that are not there.
    """
    table = table_of(path, format, columns, (event_id,) if event_id else ())
    return _from_table(table, columns, event_id, unit, event_type)


def past_baskets(path: str) -> list[PastRecord]:
    """The lines of UCI Online Retail, each an add_to_cart."""
    columns = Columns("item_id", "event_time", "user", session="invoice", price="price")
    return _from_table(online_retail_lines(path), columns, None, "ms", "add_to_cart")


def past_messages(path: str) -> list[PastRecord]:
    """The lines of a file of user-events messages; where they stand tells when they came."""
    source, place = file_system(path)
    with source.open_input_stream(place) as stream:
        lines = stream.read().splitlines()
    newest, records = 0, []
    for number, line in enumerate(lines):
        if line.strip():
            user, time = _told(line, LATEST_MS)
            newest = max(newest, time)
            records.append(_file_record(number, line, user, newest, time))
    return _placed(records)


def past_range(client: Mapping[str, str], topic: str, start: str, end: str) -> list[PastRecord]:
    """The records of a range of a topic (see `models.event_range`), their partitions merged."""
    newest: Counter[int] = Counter()
    records = []
    for message in messages(client, topic, start, end):
        number, received = message.partition(), message.timestamp()[1]
        newest[number] = max(newest[number], _told(message.value(), received)[1])
        record = PastRecord(
            newest[number],
            number,
            message.offset(),
            message.key(),
            message.value(),
            received,
            [(name, value) for name, value in message.headers() or []],
        )
        records.append(record)
    in_partitions = sorted(_placed(records), key=attrgetter("partition"))  # stable
    return sorted(in_partitions, key=attrgetter("place"))


def between(
    records: Iterable[PastRecord], since: int | None, until: int | None
) -> list[PastRecord]:
    """The records whose turn is at or after `since` and before `until`, epoch ms."""
    first, last = since or 0, LATEST_MS + 1 if until is None else until
    return [record for record in records if first <= record.place < last]


def events_of(records: Iterable[PastRecord]) -> Iterator[tuple[str, Event]]:
    """The users and events of the records that are events, in order."""
    for record in records:
        try:
            yield decode(record.value, record.received)
        except InvalidEventError:
            continue


def _from_table(
    table: pa.Table, columns: Columns, event_id: str | None, unit: str, event_type: str
) -> list[PastRecord]:
    times = times_of(table[columns.time], unit)
    user = columns.user or columns.session
    if user is None:
        raise ValueError("expected a user or a session column; set `source.columns.user`")
    fields: dict[str, list[Any]] = {
        "event_type": _texts(table, columns.type) or [event_type] * len(table),
        "event_time": [time if time >= 0 else None for time in times.tolist()],
        "user_id": _texts(table, user),
        "session_id": _texts(table, columns.session),
        "item_id": _texts(table, columns.item),
        "price": _known(prices_of(table, columns.price, len(table))),
    }
    fields["event_id"] = _texts(table, event_id) or _hashes(fields)
    told = {name: values for name, values in fields.items() if values}
    rows = zip(*told.values(), strict=True)
    records = [
        _row_record(number, dict(zip(told, row, strict=True))) for number, row in enumerate(rows)
    ]
    return sorted(_placed(records), key=attrgetter("place"))


def _row_record(number: int, row: dict[str, Any]) -> PastRecord:
    value = _encode({name: told for name, told in row.items() if told is not None})
    time = row["event_time"] or 0
    place = time if EARLIEST_MS <= time <= LATEST_MS else 0
    return _file_record(number, value, row["user_id"], place, time)


def _file_record(number: int, value: bytes, user: str | None, place: int, time: int) -> PastRecord:
    """A record of a file: no clock saw it, so that its own time is when it was received."""
    partition = zlib.crc32(user.encode()) % PARTITIONS if user else 0
    received = min(max(time, EARLIEST_MS), LATEST_MS)
    key = user.encode() if user else None
    return PastRecord(place, partition, number, key, value, received, [])


def _told(value: bytes | None, received: int) -> tuple[str | None, int]:
    """User and time of a message, None and 0 where it is no event."""
    try:
        user, event = decode(value, received)
    except InvalidEventError:
        return None, 0
    return user, event.time


def _placed(records: list[PastRecord]) -> list[PastRecord]:
    """The records; those that came before any event, or are none, have the first event's place."""
    first = min((record.place for record in records if record.place), default=EARLIEST_MS)
    return [record if record.place else replace(record, place=first) for record in records]


def _texts(table: pa.Table, name: str | None) -> list[str | None]:
    """The column as texts, none where it is empty, as in CSV; no column at all without a name."""
    if name is None:
        return []
    return [text or None for text in pc.cast(table[name], pa.string()).to_pylist()]


def _known(prices: np.ndarray) -> list[float | None]:
    return [None if price != price else price for price in prices.tolist()]


def _hashes(fields: dict[str, list[Any]]) -> list[str]:
    """An id for each row: of its user, time, type and item, and the number of such rows before."""
    names = ("user_id", "event_time", "event_type", "item_id")
    times: Counter[tuple[Any, ...]] = Counter()
    ids = []
    for what in zip(*(fields[name] for name in names), strict=True):
        times[what] += 1
        text = "\0".join(map(str, (*what, times[what])))
        ids.append(hashlib.blake2b(text.encode(), digest_size=12).hexdigest())
    return ids
