"""The replay buffer: a bounded sample of past sessions, so that a fine-tune does not forget.

Every session has a key, a hash of what is in it; the buffer holds the sessions with the lowest
keys (a bottom-k sample, Cohen & Kaplan 2007). So each session ever offered is in it with the same
chance, items are replayed in proportion to their frequency (as in ADER, Mi et al. 2020), no clock
and no count is needed, and sessions that are offered again change nothing.
"""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.event_files import Columns, read_events
from models.sessions import ItemFacts, SessionLog, sessions_from
from udfs.events import EVENT_TYPES

_COLUMNS = Columns(
    item="item_id",
    time="event_time",
    session="session",
    type="event_type",
    price="price",
    title="title",
    category="category",
)


def refreshed(buffer: SessionLog | None, offered: SessionLog, size: int) -> SessionLog:
    """The buffer after more sessions were offered to it: at most `size`, in order of their end."""
    log = offered if buffer is None else merged(buffer, offered)
    _, by_key = np.unique(session_keys(log), return_index=True)
    return chosen(log, np.sort(by_key[:size]))


def session_keys(log: SessionLog) -> np.ndarray:
    """A hash of each session's items and times: uint64 [S], the same in every data set."""
    ids = [item.encode() for item in log.facts.ids]
    items, times = log.items.tolist(), log.times.astype("<i8")
    digests = (
        blake2b(
            b"\0".join([times[low:high].tobytes(), *(ids[item] for item in items[low:high])]),
            digest_size=8,
        ).digest()
        for low, high in pairwise(log.offsets.tolist())
    )
    return np.frombuffer(b"".join(digests), "<u8")


def chosen(log: SessionLog, sessions: np.ndarray) -> SessionLog:
    """The given sessions of a log, in the given order."""
    lengths = np.diff(log.offsets)[sessions]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.arange(offsets[-1]) + np.repeat(log.offsets[sessions] - offsets[:-1], lengths)
    return replace(
        log,
        offsets=offsets,
        items=log.items[rows],
        types=log.types[rows],
        times=log.times[rows],
        prices=log.prices[rows],
    )


def merged(first: SessionLog, second: SessionLog) -> SessionLog:
    """Sessions of two data sets in order of their end; facts of `second` win."""
    moved, facts = aligned(first, second)
    both = moved.joined(replace(second, facts=facts))
    return chosen(both, np.argsort(both.ends, kind="stable"))


def aligned(log: SessionLog, to: SessionLog) -> tuple[SessionLog, ItemFacts]:
    """`log` with the item codes of `to`, and the facts of both, those of `to` first."""
    index = {item: code for code, item in enumerate(to.facts.ids)}
    code = np.array([index.setdefault(item, len(index)) for item in log.facts.ids], np.int32)
    titles, categories = to.facts.titles[:], to.facts.categories[:]
    for column, own in ((titles, log.facts.titles), (categories, log.facts.categories)):
        column.extend([None] * (len(index) - len(column)))
        for place, fact in zip(code.tolist(), own, strict=True):
            if column[place] is None:
                column[place] = fact
    facts = ItemFacts(list(index), titles, categories)
    return replace(log, items=code[log.items], facts=facts), facts


def write_buffer(path: Path, log: SessionLog) -> None:
    """Write the sessions as Parquet aside and rename: a crash leaves the old buffer."""
    ids, titles, categories = (
        pa.array(column, pa.string()).take(pa.array(log.items))
        for column in (log.facts.ids, log.facts.titles, log.facts.categories)
    )
    table = pa.table(
        {
            "session": log.session_of_row(),
            "item_id": ids,
            "event_type": pa.array(EVENT_TYPES, pa.string()).take(pa.array(log.types)),
            "event_time": log.times,
            "price": pa.array(log.prices, from_pandas=True),  # NaN is null
            "title": titles,
            "category": categories,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    pq.write_table(table, aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def read_buffer(path: Path) -> SessionLog | None:
    """The sessions that `write_buffer` wrote, None where there is no buffer yet."""
    if not path.exists():
        return None
    events, left_out = read_events(str(path), "parquet", _COLUMNS, "ms", "view_item")
    if left_out:
        raise ValueError(f"expected a replay buffer at {path}; {left_out} of its rows are invalid")
    return sessions_from(events, gap_ms=0)
