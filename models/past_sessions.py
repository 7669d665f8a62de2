"""Past sessions by item: which are kept, in bounded memory, and how newer ones are appended.

rows of sessions ─ distinct items ─ by their end ─ the newest of each item ─ PastSessions
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class KnnSettings(BaseModel):
    """Which past sessions are kept and how they are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_item: int = Field(default=500, ge=1, description="newest sessions of an item that are kept")
    longest: int = Field(default=30, ge=2, description="items of a past session, the last ones")
    nearest: int = Field(default=100, ge=1, description="most similar sessions that vote")
    items: int = Field(default=60, ge=1, description="candidates they may propose")
    recent: int = Field(default=6, ge=1, description="last items of a session that are looked up")
    decay: float = Field(default=0.75, gt=0, le=1, description="weight of an item, each step back")
    length_power: float = Field(
        default=0.5, ge=0, description="power of its length by which a past session weighs less"
    )
    half_life_days: float = Field(
        default=90.0, gt=0, description="age at which a past session counts half"
    )
    reach: float = Field(default=2.0, gt=0, description="items beside a match that still are near")


@dataclass(frozen=True)
class PastSessions:
    """S sessions by their end, each with its distinct items, and which of them hold an item."""

    offsets: np.ndarray  # int64 [S + 1], session s owns items[offsets[s]:offsets[s+1]]
    items: np.ndarray  # int32 [N], in the order in which they last occurred
    ends: np.ndarray  # int64 [S], epoch ms, ascending
    item_offsets: np.ndarray  # int64 [V + 1]
    item_sessions: np.ndarray  # int32 [M], newest first, at most `per_item` of an item

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def catalogue(self) -> int:
        """How many items there are, with or without a session."""
        return len(self.item_offsets) - 1

    def appended(
        self, items: np.ndarray, session: np.ndarray, times: np.ndarray, settings: KnnSettings
    ) -> PastSessions:
        """These and newer sessions: what `past_sessions` makes of all of them together.

        The rows [N] are those of `past_sessions`. Memory stays bounded: a session leaves with the
        last item of which it is one of the newest.
        """
        fresh = _distinct(items, session, times, settings.longest)
        lengths = np.append(np.diff(self.offsets), np.diff(fresh[0]))
        return _indexed(
            np.append(0, np.cumsum(lengths)),
            np.append(self.items, fresh[1]),
            np.append(self.ends, fresh[2]),
            self.catalogue,
            settings.per_item,
        )

    def recoded(self, index: np.ndarray, size: int, settings: KnnSettings) -> PastSessions:
        """The same in a catalogue of `size` items; `index` [V] maps to it, -1 where gone."""
        codes = index[self.items]
        known = codes >= 0
        kept = np.append(0, np.cumsum(known))[self.offsets]
        some = np.diff(kept) > 0
        offsets = np.append(0, np.cumsum(np.diff(kept)[some]))
        return _indexed(offsets, codes[known], self.ends[some], size, settings.per_item)


def past_sessions(
    items: np.ndarray, session: np.ndarray, times: np.ndarray, size: int, settings: KnnSettings
) -> PastSessions:
    """Index rows of sessions: items below `size`, session (ascending) and times (ms) are [N]."""
    return _indexed(*_distinct(items, session, times, settings.longest), size, settings.per_item)


def restored(
    offsets: np.ndarray, items: np.ndarray, ends: np.ndarray, size: int, settings: KnnSettings
) -> PastSessions:
    """What was stored, indexed anew; raises ValueError for arrays that do not fit together."""
    sound = (
        len(offsets) == len(ends) + 1
        and offsets[0] == 0
        and offsets[-1] == len(items)
        and bool((np.diff(offsets) > 0).all())
        and bool((np.diff(ends) >= 0).all())
        and (not len(items) or bool(items.min() >= 0 and items.max() < size))
    )
    if not sound:
        raise ValueError(f"expected past sessions in order of time, of items below {size}")
    return _with_index(offsets, items, ends, size, settings.per_item)


def _distinct(
    items: np.ndarray, session: np.ndarray, times: np.ndarray, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, distinct items by their last occurrence (at most `longest`), ends of sessions."""
    if len(items) == 0:
        return np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64)
    last = np.flatnonzero(np.append(np.diff(session) != 0, True))
    number = np.repeat(np.arange(len(last)), np.diff(np.append(-1, last)))
    order = np.lexsort((items, number))
    final = np.append((np.diff(items[order]) != 0) | (np.diff(number[order]) != 0), True)
    rows = np.sort(order[final])  # the last row of each item of each session
    counts = np.bincount(number[rows], minlength=len(last))
    ends = np.cumsum(counts)
    kept = np.repeat(ends, counts) - np.arange(len(rows)) <= longest
    counts = np.minimum(counts, longest)
    return np.append(0, np.cumsum(counts)), items[rows[kept]].astype(np.int32), times[last]


def _indexed(
    offsets: np.ndarray, items: np.ndarray, ends: np.ndarray, size: int, per_item: int
) -> PastSessions:
    """Sessions by their end (equal ones as they came), without those that no item lists."""
    order = np.argsort(ends, kind="stable")
    offsets, items = _chosen(offsets, items, order)
    found = _with_index(offsets, items, ends[order], size, per_item)
    listed = np.unique(found.item_sessions)
    if len(listed) == len(found):
        return found
    offsets, items = _chosen(offsets, items, listed)
    return _with_index(offsets, items, found.ends[listed], size, per_item)


def _chosen(
    offsets: np.ndarray, items: np.ndarray, sessions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)[sessions]
    kept = np.append(0, np.cumsum(lengths))
    rows = np.arange(kept[-1]) + np.repeat(offsets[sessions] - kept[:-1], lengths)
    return kept, items[rows]


def _with_index(
    offsets: np.ndarray, items: np.ndarray, ends: np.ndarray, size: int, per_item: int
) -> PastSessions:
    owner = np.repeat(np.arange(len(ends)), np.diff(offsets))
    order = np.lexsort((-owner, items))
    first = np.searchsorted(items[order], np.arange(size))
    kept = order[np.arange(len(order)) - first[items[order]] < per_item]
    return PastSessions(
        offsets.astype(np.int64),
        items.astype(np.int32),
        ends.astype(np.int64),
        np.searchsorted(items[kept], np.arange(size + 1)).astype(np.int64),
        owner[kept].astype(np.int32),
    )
