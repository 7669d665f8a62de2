"""What replayed lists were worth to those who got them, list by list, as columns.

messages ─ Lists ─┐
futures ──────────┴─ Judged ─ values of each list ─ bootstrap
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.metrics import MISS, gains, reciprocals
from models.next_items import Future, Key

METRICS = ("hit", "first", "mrr", "ndcg", "later")
"""What `metric_values` gives of each list whose user turned to another item."""


@dataclass(frozen=True)
class Lists:
    """N lists of at most k items, in order of their events."""

    keys: list[Key]
    times: np.ndarray  # int64 [N], epoch ms of the event
    items: np.ndarray  # int32 [N, k], codes; -1 where a list is shorter
    scores: np.ndarray  # float64 [N, k], -inf there
    took_us: np.ndarray  # float64 [N]
    versions: list[str]  # of the bundle that answered
    served_by: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, rows: np.ndarray) -> Lists:
        """Some of the lists, by their rows."""
        some = rows.tolist()
        return Lists(
            [self.keys[row] for row in some],
            self.times[rows],
            self.items[rows],
            self.scores[rows],
            self.took_us[rows],
            [self.versions[row] for row in some],
            [self.served_by[row] for row in some],
        )


def lists_of(messages: Iterable[Mapping[str, Any]], codes: dict[str, int], size: int) -> Lists:
    """The first `size` items of each message as columns; new items are added to `codes`."""
    keys: list[Key] = []
    times: list[int] = []
    items: list[list[int]] = []
    scores: list[list[float]] = []
    took: list[int] = []
    versions: list[str] = []
    served: list[str] = []
    for message in messages:
        chosen = message["items"][:size]
        short = size - len(chosen)
        keys.append((message["user_id"], message["trigger_event_id"]))
        times.append(message["event_time"])
        items.append([codes.setdefault(i["item_id"], len(codes)) for i in chosen] + [-1] * short)
        scores.append([i["score"] for i in chosen] + [-np.inf] * short)
        took.append(sum(message["took_us"].values()))
        versions.append(message["bundle_version"])
        served.append(message["served_by"])
    lists = Lists(
        keys,
        np.array(times, np.int64),
        np.array(items, np.int32).reshape(-1, size),
        np.array(scores, np.float64).reshape(-1, size),
        np.array(took, np.float64),
        versions,
        served,
    )
    order = sorted(range(len(keys)), key=lambda row: (times[row], keys[row]))
    return lists.part(np.array(order, np.int64))


@dataclass(frozen=True)
class Judged:
    """Parallel to N lists: in which session each was, and where it held what came next."""

    sessions: np.ndarray  # int64 [N]
    lengths: np.ndarray  # int64 [N], items of the session so far
    ranks: np.ndarray  # int64 [N], 1-based, ties counted against the list; MISS where not in it
    targets: np.ndarray  # int32 [N], the code of the item that came next; -1: none came
    later: np.ndarray  # float64 [N], share of all items that came later; NaN: none came

    @property
    def wanted(self) -> np.ndarray:
        """Which lists can be judged, since their users turned to another item: bool [N]."""
        return self.targets >= 0


def judged(lists: Lists, codes: dict[str, int], futures: Mapping[Key, Future]) -> Judged:
    """Hold lists against what their users did next; raises KeyError for a foreign list."""
    names = [*codes]
    out = Judged(
        np.empty(len(lists), np.int64),
        np.empty(len(lists), np.int64),
        np.full(len(lists), MISS, np.int64),
        np.full(len(lists), -1, np.int32),
        np.full(len(lists), np.nan),
    )
    for row, key in enumerate(lists.keys):
        future = futures[key]
        out.sessions[row], out.lengths[row] = future.session, future.items
        if future.next:
            held = [names[code] for code in lists.items[row].tolist() if code >= 0]
            found = [place for place, item in enumerate(held) if item in future.next]
            target = held[found[0]] if found else min(future.next)
            out.targets[row] = codes.setdefault(target, len(codes))
            if found:
                own = lists.scores[row, found[0]]
                out.ranks[row] = (lists.scores[row] >= own).sum()
            out.later[row] = sum(map(future.holds, held)) / future.later
    return out


def metric_values(judged: Judged, cutoff: int) -> np.ndarray:
    """METRICS of the lists that can be judged: float64 [W, 5]."""
    ranks = judged.ranks[judged.wanted]
    columns = (
        ranks <= cutoff,
        ranks <= 1,
        reciprocals(ranks, cutoff),
        gains(ranks, cutoff),
        judged.later[judged.wanted],
    )
    return np.stack(columns, axis=1).astype(np.float64)


def popularity_of(lists: Lists, popularity: np.ndarray) -> np.ndarray:
    """The mean popularity [items] of what each list shows, float64 [N]; 0 where it is empty."""
    shown = lists.items >= 0
    total = np.where(shown, popularity[lists.items], 0.0).sum(axis=1)
    return total / np.maximum(shown.sum(axis=1), 1)


def exposures(lists: Lists, items: int) -> np.ndarray:
    """In how many lists each item is: int64 [items]."""
    return np.bincount(lists.items[lists.items >= 0], minlength=items)


def gini(counts: np.ndarray) -> float:
    """How unequally lists show the items they show: 0 all alike, towards 1 a few of them."""
    shown = np.sort(counts[counts > 0]).astype(np.float64)
    if len(shown) == 0:
        return 0.0
    place = np.arange(1, len(shown) + 1)
    return float((2 * place - len(shown) - 1) @ shown / (len(shown) * shown.sum()))


def total_gain(gain: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owners that occur, how often, and the sum of their gains [N]; the largest gain first."""
    known, place, counts = np.unique(owners, return_inverse=True, return_counts=True)
    sums = np.bincount(place, gain, len(known))
    order = np.lexsort((known, -sums))
    return known[order], counts[order], sums[order]
