"""Which sessions a model learns from and which it is judged on: known data sets, anybody's files.

train file ─ sessions ─┬───────────────────────┐
test file ── sessions ─┴ or the newest of train ┴─ (train, test)
one file with a column of periods ─ sessions ─ [(what was before, the period), …]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from models.event_files import Columns, events_of, table_of
from models.sessions import SessionLog, sessions_from

DATA = Path("../shared/data")
GAP_MS = 1_800_000  # of silence end a session where no column tells sessions
NEWEST = 0.15  # share of the sessions that are judged on where no file is given for that
_WEEK_MS = 604_800_000
_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json"}
_NAMES = {
    "session": ("session", "session_id", "sessionid", "SessionId", "SessionID"),
    "item": ("item", "item_id", "itemid", "ItemId", "ItemID"),
    "time": ("time", "event_time", "timestamp", "Time", "Timestamp"),
}


@dataclass(frozen=True)
class Source:
    """Files with sessions, and what their columns are called."""

    train: Path
    test: Path | None = None  # None: the newest sessions of `train`
    columns: Columns | None = None  # None: by their usual names
    period: str | None = None  # column by which the sessions are learned and judged in turn


def known(name: str, folder: Path) -> Source:
    """One of the data sets by name; raises ValueError where its file is not in the folder."""
    session = Columns("item_id", "event_time", session="session_id")
    category = replace(session, category="category_id")
    sources = {
        "rsc15_64": Source(
            folder / "rsc15_64_train.parquet", folder / "rsc15_64_test.parquet", category
        ),
        "serenade": Source(
            folder / "serenade_train.parquet", folder / "serenade_test.parquet", session
        ),
        "diginetica": Source(folder / "diginetica_17weeks.parquet", period="period"),
        "retailrocket": Source(folder / "retailrocket_8days.parquet", columns=category),
        "taobao": Source(
            folder / "taobao_2hours.parquet",
            columns=Columns("item_id", "event_time", user="user_id", category="category_id"),
        ),
    }
    source = sources[name]
    for file in (source.train, source.test):
        if file and not file.is_file():
            raise ValueError(
                f"expected {name} at {file}; it is not there; give the folder with --data"
            )
    return source


SETS = ("rsc15_64", "serenade", "diginetica", "retailrocket", "taobao")
"""The names that `known` knows."""


def columns_of(text: str) -> Columns:
    """`SESSION,ITEM,TIME`, or `session=…,item=…,time=…` with category, title, price or user."""
    parts = [part.strip() for part in text.split(",")]
    if all("=" not in part for part in parts) and len(parts) == 3:
        return Columns(parts[1], parts[2], session=parts[0])
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    unknown = sorted(set(named) - set(Columns.__slots__))
    if len(named) != len(parts) or unknown or not {"item", "time"} <= set(named):
        raise ValueError(
            "expected --columns SESSION,ITEM,TIME, or name=column pairs of "
            f"{', '.join(Columns.__slots__)} with at least item and time; got {text!r}"
        )
    return Columns(**named)


def split(source: Source) -> tuple[SessionLog, SessionLog]:
    """The sessions to learn from and those to be judged on."""
    train = _sessions(source.train, source.columns)
    if source.test is not None:
        return train, _sessions(source.test, source.columns)
    cut = len(train) - int(len(train) * NEWEST)
    return train.part(0, cut), train.part(cut, len(train))


def periods(source: Source) -> list[SessionLog]:
    """The sessions of each period in turn; all logs share their items.

    A session that goes on in the next period is another one there. Rows of a file without times
    must be in order of time; a period then counts as a week.
    """
    assert source.period is not None
    columns = source.columns or _usual(_columns_in(source.train), time=False)
    time = columns.time or "row"
    wanted = replace(columns, time=columns.time or columns.item, type=source.period)
    table = table_of(str(source.train), _format(source.train), wanted)
    period = np.unique(table[source.period].to_numpy(), return_inverse=True)[1]
    if not columns.time:
        table = table.append_column(time, pa.array(_weekly(period)))
    table = table.append_column("_session", _paired(table[columns.session or ""], period))
    unit = _unit(table, time) if columns.time else "ms"
    named = replace(columns, time=time, session="_session", user=None)
    events, _ = events_of(table, named, unit, _VIEW)
    log = sessions_from(events, GAP_MS)
    cuts = np.searchsorted(_periods_of(log, period, events.times), np.arange(period.max() + 2))
    return [log.part(int(low), int(high)) for low, high in pairwise(cuts)]


_VIEW = "view_item"


def _weekly(period: np.ndarray) -> np.ndarray:
    """Times in ms for rows in order of time: a period is a week, its rows are spread evenly."""
    count = np.bincount(period)
    start = np.cumsum(count) - count
    within = (np.arange(len(period)) - start[period]) / count[period]
    return (_WEEK_MS * (period + 1 + within)).astype(np.int64)


def _paired(session: pa.ChunkedArray, period: np.ndarray) -> pa.Array:
    return pa.array([f"{s}/{p}" for s, p in zip(session.to_pylist(), period, strict=True)])


def _periods_of(log: SessionLog, period: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The period of each session: that of the rows of its time, which do not overlap."""
    first = np.array([times[period == p].min() for p in range(period.max() + 1)])
    if (np.diff(first) <= 0).any():
        raise ValueError("expected periods that follow each other in time; they do not")
    return np.searchsorted(first, log.ends, side="right") - 1


def _sessions(path: Path, columns: Columns | None) -> SessionLog:
    columns = columns or _usual(_columns_in(path))
    table = table_of(str(path), _format(path), columns)
    events, _ = events_of(table, columns, _unit(table, columns.time), _VIEW)
    return sessions_from(events, GAP_MS)


def _format(path: Path) -> str:
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"expected a file that ends with {', '.join(_FORMATS)}; got {path}")
    return _FORMATS[path.suffix.lower()]


def _columns_in(path: Path) -> list[str]:
    form = _format(path)
    if not path.exists():
        raise ValueError(f"expected a file with sessions at {path}; it is not there")
    return list(ds.dataset(str(path), format=form).schema.names)


def _usual(there: list[str], time: bool = True) -> Columns:
    found = {
        kind: next((name for name in names if name in there), "") for kind, names in _NAMES.items()
    }
    missing = [kind for kind, name in found.items() if not name and (time or kind != "time")]
    if missing:
        raise ValueError(
            f"expected columns for {', '.join(missing)}; the file has {', '.join(there)}; "
            "name them with --columns SESSION,ITEM,TIME"
        )
    return Columns(found["item"], found["time"], session=found["session"])


def _unit(table: pa.Table, time: str) -> str:
    """The unit of a column of numbers, by what would be a date of this age; ms for the rest."""
    column = table[time]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return "ms"
    most = float(np.nanmax(column.to_numpy())) if len(column) else 0.0
    return next(
        (unit for unit, end in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if most < end), "ns"
    )
