"""Events as columns, cut into sessions: what training and evaluation work on.

EventTable (any order) ─ sessions_from ─ SessionLog (by end time) ─ prefixes ─ SessionBatch
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from udfs.events import INTERACTION_CODES, TYPE_CODES
from udfs.session_features import SessionBatch

_END = TYPE_CODES["session_end"]
_INTERACTIONS = np.array(sorted(INTERACTION_CODES), np.int8)


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What a data set tells about its items, parallel to `ids`; None where it is not told."""

    ids: list[str]
    titles: list[str | None]
    categories: list[str | None]


@dataclass(frozen=True, slots=True)
class EventTable:
    """N events as parallel columns in order of arrival."""

    users: np.ndarray  # int64 [N], code of the user
    items: np.ndarray  # int32 [N], index into facts.ids, -1 for an event without item
    types: np.ndarray  # int8 [N], index into EVENT_TYPES
    times: np.ndarray  # int64 [N], epoch ms
    prices: np.ndarray  # float64 [N], NaN where not known
    sessions: np.ndarray | None  # int64 [N], code of the session; None: cut by silence
    facts: ItemFacts

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True)
class SessionLog:
    """S sessions ordered by their end; session s owns rows offsets[s]:offsets[s+1]."""

    offsets: np.ndarray  # int64 [S + 1]
    items: np.ndarray  # int32 [N], index into facts.ids
    types: np.ndarray  # int8 [N]
    times: np.ndarray  # int64 [N], epoch ms
    prices: np.ndarray  # float64 [N], NaN where not known
    facts: ItemFacts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def ends(self) -> np.ndarray:
        """Time of the last event of each session: int64 [S], epoch ms."""
        return self.times[self.offsets[1:] - 1]

    def session_of_row(self) -> np.ndarray:
        """Which session owns each row: int64 [N]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def part(self, first: int, last: int) -> SessionLog:
        """Sessions first:last with the same item codes."""
        low, high = self.offsets[first], self.offsets[last]
        return replace(
            self,
            offsets=self.offsets[first : last + 1] - low,
            items=self.items[low:high],
            types=self.types[low:high],
            times=self.times[low:high],
            prices=self.prices[low:high],
        )

    def joined(self, later: SessionLog) -> SessionLog:
        """These sessions followed by `later`, which must be of the same data set."""
        return replace(
            self,
            offsets=np.concatenate([self.offsets, later.offsets[1:] + self.offsets[-1]]),
            items=np.concatenate([self.items, later.items]),
            types=np.concatenate([self.types, later.types]),
            times=np.concatenate([self.times, later.times]),
            prices=np.concatenate([self.prices, later.prices]),
        )

    def occurrences(self) -> dict[str, int]:
        """How often each item occurs."""
        counts = np.bincount(self.items, minlength=len(self.facts.ids))
        return dict(zip(self.facts.ids, counts.tolist(), strict=True))

    def target_rows(self) -> np.ndarray:
        """Every row that has an earlier row in its session: int64, in order."""
        starts = np.zeros(len(self.items), bool)
        starts[self.offsets[:-1]] = True
        return np.flatnonzero(~starts)

    def prefixes(self, targets: np.ndarray) -> SessionBatch:
        """What was known just before each target row: one session of a batch for each."""
        starts = self.offsets[np.searchsorted(self.offsets, targets, side="right") - 1]
        lengths = targets - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        ids = self.facts.ids
        return SessionBatch(
            offsets.astype(np.int64),
            [ids[item] for item in self.items[rows].tolist()],
            self.types[rows],
            self.times[rows],
            self.prices[rows],
        )


def sessions_from(table: EventTable, gap_ms: int) -> SessionLog:
    """Cut events into sessions: by the session column if there is one, else by silence.

    The rule is that of `udfs.session_features.split_sessions`, written for columns.
    """
    owner = table.users if table.sessions is None else table.sessions
    order = np.lexsort((table.times, owner))  # stable: equal times keep their arrival
    owner, times, types = owner[order], table.times[order], table.types[order]
    cut = np.ones(len(order), bool)
    cut[1:] = owner[1:] != owner[:-1]
    if table.sessions is None:
        cut[1:] |= (np.diff(times) > gap_ms) | (types[:-1] == _END)
    session = np.cumsum(cut) - 1
    keep = np.isin(types, _INTERACTIONS) & (table.items[order] >= 0)
    return _by_end_time(table, order[keep], session[keep])


def _by_end_time(table: EventTable, rows: np.ndarray, session: np.ndarray) -> SessionLog:
    """Order sessions by their last event; sessions of one time keep their order."""
    if len(rows) == 0:
        raise ValueError("expected events with items (views, carts, purchases); got none")
    last = np.flatnonzero(np.append(np.diff(session) != 0, True))
    first = np.append(0, last[:-1] + 1)
    by_end = np.argsort(table.times[rows[last]], kind="stable")
    lengths = (last - first + 1)[by_end]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    inner = np.arange(offsets[-1]) + np.repeat(first[by_end] - offsets[:-1], lengths)
    rows = rows[inner]
    return SessionLog(
        offsets,
        table.items[rows],
        table.types[rows],
        table.times[rows],
        table.prices[rows],
        table.facts,
    )
