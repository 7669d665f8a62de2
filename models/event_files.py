"""Events out of Parquet, CSV or JSONL files, by a mapping of columns.

Paths may be URIs of pyarrow.fs: a folder, s3://, gs://, hdfs://.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from models.datasets import encoded
from models.sessions import EventTable, ItemFacts
from udfs.events import TYPE_ALIASES, TYPE_CODES, Event, InvalidEventError, decode

_UNITS = {"s": 1_000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
_LATEST = 1 << 62  # a file has no clock of its own: no event of it is ahead of time


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a file; None where it has no such column."""

    item: str
    time: str
    user: str | None = None
    session: str | None = None
    type: str | None = None
    price: str | None = None
    title: str | None = None
    category: str | None = None


def read_events(
    path: str, format: str, columns: Columns, time_unit: str, event_type: str
) -> tuple[EventTable, int]:
    """Events of files in `format` parquet, csv or json, and how many rows were left out.

    Left out are rows without user, item or time and those whose event type is not known.
    `event_type` is given to all rows where there is no type column. Raises ValueError for
    columns that are not there.
    """
    return events_of(table_of(path, format, columns), columns, time_unit, event_type)


def events_of(
    table: pa.Table, columns: Columns, time_unit: str, event_type: str
) -> tuple[EventTable, int]:
    """The same of a table in memory."""
    user = columns.user or columns.session
    if user is None:
        raise ValueError("expected a user or a session column; set `columns.user`")
    users, _ = encoded(table[user])
    items, ids = encoded(table[columns.item])
    times = times_of(table[columns.time], time_unit)
    types = _types(table, columns.type, event_type, len(users))
    keep = (users >= 0) & (items >= 0) & (times >= 0) & (types >= 0)
    sessions = encoded(table[columns.session])[0] if columns.session else None
    facts = ItemFacts(
        ids,
        _fact_of_items(table, columns.title, items, len(ids)),
        _fact_of_items(table, columns.category, items, len(ids)),
    )
    events = EventTable(
        users[keep],
        items[keep].astype(np.int32),
        types[keep].astype(np.int8),
        times[keep],
        prices_of(table, columns.price, len(users))[keep],
        None if sessions is None else sessions[keep],
        facts,
    )
    return events, int((~keep).sum())


def read_messages(path: str) -> tuple[EventTable, int]:
    """Events of a file of user-events messages, one JSON value a line, and the invalid ones."""
    source, place = file_system(path)
    with source.open_input_stream(place) as stream:
        return from_messages((line, _LATEST) for line in stream.read().splitlines() if line)


def from_messages(messages: Iterable[tuple[bytes | None, int]]) -> tuple[EventTable, int]:
    """Events of (value, Kafka timestamp in ms) as they come, and how many were invalid.

    What a valid event is says `udfs.events.decode`, here as everywhere. An event with several
    items becomes as many rows; one with an event_id that was there before is left out.
    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    rows: list[tuple[int, int, int, int, float]] = []
    invalid = 0
    for value, received in messages:
        try:
            user, event = decode(value, received)
        except InvalidEventError:
            invalid += 1
            continue
        if (user, event.event_id) not in seen:
            seen.add((user, event.event_id))
            rows.extend(_rows(users.setdefault(user, len(users)), event, items))
    if not rows:
        raise ValueError(f"expected valid events; got none, {invalid} invalid")
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    names = [sys.intern(name) for name in items]
    events = EventTable(
        columns[0].astype(np.int64),
        columns[1].astype(np.int32),
        columns[2].astype(np.int8),
        columns[3].astype(np.int64),
        columns[4].astype(np.float64),
        None,
        ItemFacts(names, [None] * len(names), [None] * len(names)),
    )
    return events, invalid


def _rows(user: int, event: Event, items: dict[str, int]) -> list[tuple[int, int, int, int, float]]:
    if not event.items:  # kept, since a session_end cuts
        return [(user, -1, event.type, event.time, np.nan)]
    return [
        (
            user,
            items.setdefault(item.item_id, len(items)),
            event.type,
            event.time,
            np.nan if item.price is None else item.price,
        )
        for item in event.items
    ]


def file_system(path: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the place in it."""
    if "://" in path:
        source, place = fs.FileSystem.from_uri(path)
        return source, place
    return fs.LocalFileSystem(), path


def table_of(path: str, format: str, columns: Columns, more: tuple[str, ...] = ()) -> pa.Table:
    """The named columns of files, by path and row; raises ValueError if one is not there."""
    source, place = file_system(path)
    data = ds.dataset(place, filesystem=source, format=format)
    wanted = {name for name in _named(columns).values() if name} | {*more}
    missing = sorted(wanted - set(data.schema.names))
    if missing:
        raise ValueError(
            f"expected the columns {', '.join(missing)} in {path}; it has "
            f"{', '.join(data.schema.names)}; set `columns`"
        )
    return data.to_table(columns=sorted(wanted), use_threads=False)


def _named(columns: Columns) -> Mapping[str, str | None]:
    return {name: getattr(columns, name) for name in Columns.__slots__}


def times_of(column: pa.ChunkedArray, unit: str) -> np.ndarray:
    """Epoch ms of a number column in `unit` or of a timestamp column; -1 for null."""
    if pa.types.is_string(column.type):
        column = pc.cast(column, pa.timestamp("ms", tz="UTC"))
    if pa.types.is_timestamp(column.type):
        column = pc.cast(
            pc.cast(column, pa.timestamp("ms", tz=column.type.tz), safe=False), "int64"
        )
        unit = "ms"
    if pa.types.is_integer(column.type):
        whole = pc.fill_null(column, -1).to_numpy().astype(np.int64)
        return whole * 1000 if unit == "s" else whole // _PER_MS[unit]
    numbers = pc.cast(column, pa.float64()).to_numpy()
    return np.where(np.isfinite(numbers), numbers * _UNITS[unit], -1).astype(np.int64)


def _types(table: pa.Table, name: str | None, constant: str, size: int) -> np.ndarray:
    codes = {**TYPE_CODES, **{alias: TYPE_CODES[to] for alias, to in TYPE_ALIASES.items()}}
    if name is None:
        return np.full(size, codes[constant])
    code, names = encoded(table[name])
    return np.append([codes.get(each, -1) for each in names], -1)[code].astype(np.int64)


def prices_of(table: pa.Table, name: str | None, size: int) -> np.ndarray:
    """Prices [size], NaN where none is known."""
    if name is None:
        return np.full(size, np.nan)
    prices = pc.cast(table[name], pa.float64()).to_numpy().astype(np.float64)
    return np.where(np.isfinite(prices) & (prices > 0), prices, np.nan)


def _fact_of_items(
    table: pa.Table, name: str | None, items: np.ndarray, size: int
) -> list[str | None]:
    """The first value of a column that each item comes with."""
    if name is None:
        return [None] * size
    code, values = encoded(table[name])
    rows = np.flatnonzero((code >= 0) & (items >= 0))[::-1]
    fact = np.full(size, -1)
    fact[items[rows]] = code[rows]  # the first row is written last
    return [None if place < 0 else values[place] for place in fact.tolist()]
