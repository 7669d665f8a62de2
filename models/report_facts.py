"""The figures of a report, before anybody words or draws them.

lists of one or two replays ─┐
events of their history ─────┴─ paired by event ─ Facts
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.bootstrap import Interval, intervals
from models.list_quality import (
    METRICS,
    Judged,
    Lists,
    exposures,
    gini,
    judged,
    lists_of,
    metric_values,
    popularity_of,
    total_gain,
)
from models.next_items import futures
from models.overlap import common, jaccard, rank_biased
from udfs.events import INTERACTION_CODES, Event

LENGTHS = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, None))
"""Sessions by how many items they had so far: the first and last number of each group."""
_DAY_MS = 86_400_000
_MOST_PERIODS = 40


@dataclass(frozen=True)
class Judging:
    """How lists are judged."""

    gap_ms: int  # of silence, that ends a session
    size: int = 20  # first items of a list that count
    repeats: bool = False  # whether items count that were in the session already
    confidence: float = 0.95
    resamples: int = 2_000
    seed: int = 0


@dataclass(frozen=True)
class Side:
    """The lists of one replay, and what they were worth."""

    name: str
    lists: Lists
    judged: Judged
    only_here: int  # lists for events that the other side did not answer

    @cached_property
    def shown(self) -> np.ndarray:
        """In how many lists each item is: int64 [items]."""
        return exposures(self.lists, int(self.lists.items.max(initial=0)) + 1)

    @property
    def gini(self) -> float:
        return gini(self.shown)

    def took_us(self, quantile: float) -> float:
        """Microseconds a list took, on average over its batch."""
        return float(np.quantile(self.lists.took_us, quantile)) if len(self.lists) else 0.0


@dataclass(frozen=True)
class Row:
    """A figure of each side, and the difference of the second from the first."""

    sides: list[Interval]
    difference: Interval | None


@dataclass(frozen=True)
class Gain:
    """What an owner (an item, a user) won: over so many lists, from so many hits to so many."""

    owner: str
    lists: int
    before: int
    after: int


@dataclass(frozen=True)
class Facts:
    """All that a report tells."""

    sides: list[Side]
    judging: Judging
    events: int
    users: int
    sessions: int
    items: int  # in the history or in a list
    span: tuple[int, int]  # epoch ms of the first and the last list
    metrics: dict[str, Row]
    popularity: Row
    by_length: list[tuple[str, int, list[Interval]]]  # group, lists, hits of each side
    by_period: list[tuple[int, int, list[Interval]]]  # its first day in epoch ms, lists, hits
    overlap: dict[str, Interval]
    common: np.ndarray  # how many items each pair of lists has in common: int64 [N]
    items_won: list[Gain]  # most first
    users_won: list[Gain]
    shown_more: list[tuple[str, int, int]]  # item, lists of the first and of the second side

    def coverage(self, side: Side) -> float:
        """Share of all items that are in at least one list."""
        return float((side.shown > 0).sum() / max(self.items, 1))

    @property
    def judged(self) -> int:
        """How many lists are judged, of each side."""
        return int(self.sides[0].judged.wanted.sum())


def facts(
    lists: Mapping[str, Iterable[Mapping[str, Any]]],
    events: Sequence[tuple[str, Event]],
    judging: Judging,
) -> Facts:
    """Judge the messages of one or two replays of the same events; keys are their names.

    Only events that both have answered are compared. Raises ValueError if there is none, or for
    lists of another history.
    """
    codes: dict[str, int] = {}
    found = {name: lists_of(each, codes, judging.size) for name, each in lists.items()}
    coming = futures(events, judging.gap_ms, judging.repeats)
    sides = _sides(found, codes, coming)
    popular = _popularity(events, codes)
    first = sides[0]
    owners, wanted = first.judged.sessions, first.judged.wanted
    names = [*codes]
    values = [metric_values(side.judged, judging.size) for side in sides]
    rows = _rows(values, owners[wanted], judging)
    (popularity,) = _rows(
        [popularity_of(side.lists, popular)[:, None] for side in sides], owners, judging
    )
    hits = [value[:, 0] for value in values]
    two = len(sides) == 2
    return Facts(
        sides,
        judging,
        len(events),
        len({user for user, _ in events}),
        len({future.session for future in coming.values()}),
        len(codes),
        (int(first.lists.times.min()), int(first.lists.times.max())),
        dict(zip(METRICS, rows, strict=True)),
        popularity,
        _by_length(hits, first.judged, judging),
        _by_period(hits, first, judging),
        _overlap(sides, judging) if two else {},
        common(sides[0].lists.items, sides[1].lists.items)[:, -1] if two else np.empty(0),
        _won(hits, first.judged.targets[wanted], names) if two else [],
        _users_won(hits, first, wanted) if two else [],
        _shown_more(sides, names) if two else [],
    )


def _sides(found: dict[str, Lists], codes: dict[str, int], coming: Any) -> list[Side]:
    known = [set(lists.keys) for lists in found.values()]
    both = set.intersection(*known)
    if not both:
        raise ValueError("expected lists for the same events; there is no event that all answered")
    if foreign := len(both - coming.keys()):
        raise ValueError(
            f"expected lists for events of this history; {foreign} are of none: give the source "
            "that was replayed"
        )
    sides = []
    for (name, lists), own in zip(found.items(), known, strict=True):
        rows = np.array([row for row, key in enumerate(lists.keys) if key in both])
        part = lists.part(rows)
        sides.append(Side(name, part, judged(part, codes, coming), len(own - both)))
    return sides


def _popularity(events: Iterable[tuple[str, Event]], codes: dict[str, int]) -> np.ndarray:
    """Share of each item in all interactions, in thousandths; items of the events get codes."""
    counts = Counter(
        codes.setdefault(item.item_id, len(codes))
        for _, event in events
        if event.type in INTERACTION_CODES
        for item in event.items
    )
    out = np.zeros(len(codes))
    out[[*counts]] = [*counts.values()]
    return 1000 * out / max(out.sum(), 1)


def _rows(values: list[np.ndarray], owners: np.ndarray, judging: Judging) -> list[Row]:
    """Figures of each column [N, M] of one or two sides, from the same draws of sessions."""
    width = values[0].shape[1]
    columns = [*values, values[1] - values[0]] if len(values) == 2 else values
    found = _intervals(np.concatenate(columns, axis=1), owners, judging)
    sides = len(values)
    return [
        Row(
            [found[side * width + m] for side in range(sides)],
            found[sides * width + m] if sides == 2 else None,
        )
        for m in range(width)
    ]


def _intervals(values: np.ndarray, owners: np.ndarray, judging: Judging) -> list[Interval]:
    return intervals(values, owners, judging.confidence, judging.resamples, judging.seed)


def _by_length(
    hits: list[np.ndarray], first: Judged, judging: Judging
) -> list[tuple[str, int, list[Interval]]]:
    lengths, owners = first.lengths[first.wanted], first.sessions[first.wanted]
    groups = []
    for low, high in LENGTHS:
        some = (lengths >= low) & (lengths <= (np.inf if high is None else high))
        if some.any():
            name = (
                str(low) if low == high else f"{low} or more" if high is None else f"{low}–{high}"
            )
            columns = np.stack([hit[some] for hit in hits], axis=1)
            groups.append((name, int(some.sum()), _intervals(columns, owners[some], judging)))
    return groups


def _by_period(
    hits: list[np.ndarray], first: Side, judging: Judging
) -> list[tuple[int, int, list[Interval]]]:
    """By day, or by as many days as make at most _MOST_PERIODS."""
    wanted = first.judged.wanted
    days, owners = first.lists.times[wanted] // _DAY_MS, first.judged.sessions[wanted]
    if len(days) == 0:
        return []
    begin = days.min()
    step = -(-(int(days.max() - begin) + 1) // _MOST_PERIODS)
    period = (days - begin) // step
    found = []
    for number in np.unique(period).tolist():
        some = period == number
        columns = np.stack([hit[some] for hit in hits], axis=1)
        at = int((begin + number * step) * _DAY_MS)
        found.append((at, int(some.sum()), _intervals(columns, owners[some], judging)))
    return found


def _overlap(sides: list[Side], judging: Judging) -> dict[str, Interval]:
    own, other = (side.lists.items for side in sides)
    few = min(5, judging.size)
    columns = {
        f"Jaccard@{judging.size}": jaccard(own, other),
        f"Jaccard@{few}": jaccard(own[:, :few], other[:, :few]),
        f"RBO@{judging.size}": rank_biased(own, other),
        "first item the same": (own[:, 0] == other[:, 0]).astype(np.float64),
    }
    found = _intervals(np.stack([*columns.values()], axis=1), sides[0].judged.sessions, judging)
    return dict(zip(columns, found, strict=True))


def _won(hits: list[np.ndarray], owners: np.ndarray, names: Sequence[str]) -> list[Gain]:
    known, counts, sums = total_gain(hits[1] - hits[0], owners)
    before = np.bincount(owners, hits[0], len(names))
    return [
        Gain(names[owner], lists, int(before[owner]), int(before[owner] + gain))
        for owner, lists, gain in zip(known.tolist(), counts.tolist(), sums.tolist(), strict=True)
    ]


def _users_won(hits: list[np.ndarray], first: Side, wanted: np.ndarray) -> list[Gain]:
    users = [first.lists.keys[row][0] for row in np.flatnonzero(wanted).tolist()]
    names = sorted({*users})
    place = {name: number for number, name in enumerate(names)}
    return _won(hits, np.array([place[user] for user in users], np.int64), names)


def _shown_more(sides: list[Side], names: Sequence[str]) -> list[tuple[str, int, int]]:
    own, other = (exposures(side.lists, len(names)) for side in sides)
    order = np.lexsort((np.arange(len(names)), own - other))
    changed = order[(own != other)[order]]
    return [(names[item], int(own[item]), int(other[item])) for item in changed.tolist()]
