"""Neighbours of items: what was bought together, what came next, what has a similar title.

One table of K neighbours an item holds all three, so that serving gathers it once:
`together` is the cosine of co-occurrence within a session (Sarwar et al. 2001), `next` the
share of following events, nearer ones weighing more, `similar` the cosine of title words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

KINDS = ("together", "next", "similar")
"""The last axis of `Neighbours.weights`, in order."""

_DAY_MS = 86_400_000
_MERGE_AT = 10_000_000  # pairs


@dataclass(frozen=True)
class Neighbours:
    """K neighbours of each of V items; unused places hold item 0 with weights 0."""

    items: np.ndarray  # int32 [V, K]
    weights: np.ndarray  # float32 [V, K, 3], exact in float16, see KINDS
    visits: np.ndarray | None = None  # float32 [V], rows by age; None where a fit told none


class NeighbourSettings(BaseModel):
    """How many neighbours of each kind an item gets and what counts as one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    together: int = Field(default=28, ge=1, description="neighbours by co-occurrence")
    next: int = Field(default=12, ge=1, description="neighbours by what came after")
    similar: int = Field(default=8, ge=0, description="neighbours by words of the title")
    reach: int = Field(
        default=20, ge=1, description="rows of a session within which items are together"
    )
    half_life_days: float = Field(
        default=120.0, gt=0, description="age at which a session counts half"
    )


@dataclass(frozen=True)
class Counted:
    """What an earlier fit counted, in today's item indices."""

    keys: np.ndarray  # int64 [P], sorted: left × items + right
    sums: np.ndarray  # float64 [P, 2], (together, next)
    visits: np.ndarray  # float64 [V]
    until_ms: int  # the time at which ages were taken


def fit_neighbours(
    items: np.ndarray,
    session: np.ndarray,
    times: np.ndarray,
    titles: list[str | None],
    settings: NeighbourSettings,
    before: Counted | None = None,
) -> Neighbours:
    """Count what occurs together in the rows of sessions: items, session, times are [N].

    Rows must be in session order; `items` are indices below len(titles). What was counted
    `before` is added, faded by its age.
    """
    size = len(titles)
    now = times.max(initial=before.until_ms if before else 0)
    weight = 0.5 ** ((now - times) / _DAY_MS / settings.half_life_days)
    total = np.bincount(items, weights=weight, minlength=size)
    keys, sums = _pair_sums(items, session, weight, size, settings.reach)
    if before is not None:
        faded = 0.5 ** ((now - before.until_ms) / _DAY_MS / settings.half_life_days)
        total = total + faded * before.visits
        keys, sums = _merged(
            np.concatenate([before.keys, keys]), np.concatenate([faded * before.sums, sums])
        )
    left, right = keys // size, keys % size
    together = sums[:, 0] / np.sqrt(total[left] * total[right] + 10.0)
    following = sums[:, 1] / (total[left] + 5.0)
    similar = _similar_titles(titles, settings.similar)
    found = _top(size, left, right, np.stack([together, following], axis=1), similar, settings)
    return replace(found, visits=total.astype(np.float32))


def counted(
    table: Neighbours, visits: np.ndarray, until_ms: int, index: np.ndarray, size: int
) -> Counted:
    """The counts behind a table of neighbours that were fitted at `until_ms`: of those it kept.

    `visits` [V] are those of the fit; `index` [V] maps its items to today's, -1 if they are gone.
    """
    row, place = np.nonzero(table.weights[:, :, :2].any(axis=2))
    other = table.items[row, place]
    weights = table.weights[row, place, :2].astype(np.float64)
    scale = np.stack([np.sqrt(visits[row] * visits[other] + 10.0), visits[row] + 5.0], axis=1)
    left, right = index[row], index[other]
    kept = np.flatnonzero((left >= 0) & (right >= 0))
    keys, sums = _merged((left * size + right)[kept], (weights * scale)[kept])
    total = np.zeros(size)
    total[index[index >= 0]] = visits[index >= 0]
    return Counted(keys, sums, total, until_ms)


def _pair_sums(
    items: np.ndarray, session: np.ndarray, weight: np.ndarray, size: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over ordered pairs of items: keys int64 [P], (together, next) [P, 2]."""
    keys, sums = [np.empty(0, np.int64)], [np.empty((0, 2))]
    pending = 0
    for distance in range(1, reach + 1):
        rows = np.flatnonzero(session[distance:] == session[:-distance])
        first, second = items[rows].astype(np.int64), items[rows + distance].astype(np.int64)
        near, zero = weight[rows] / distance, np.zeros(len(rows))
        both = np.where(first != second, weight[rows], 0.0)  # an item only follows itself
        keys += [first * size + second, second * size + first]
        sums += [np.stack([both, near], 1), np.stack([both, zero], 1)]
        pending += 2 * len(rows)
        if pending > _MERGE_AT or distance == reach:  # bounds the memory
            merged = _merged(np.concatenate(keys), np.concatenate(sums))
            keys, sums, pending = [merged[0]], [merged[1]], 0
    return keys[0], sums[0]


def _merged(keys: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(keys) == 0:
        return keys, sums
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[starts], np.add.reduceat(sums[order], starts, axis=0)


def _words(title: str | None) -> list[str]:
    return re.findall(r"[a-z0-9]+", (title or "").lower())


def _similar_titles(titles: list[str | None], count: int) -> tuple[np.ndarray, ...]:
    """Pairs (left, right, cosine of idf-weighted words), the best `count` of each item."""
    words = [sorted(set(_words(title))) for title in titles]
    seen = Counter(word for each in words for word in each)
    kept = {w: i for i, w in enumerate(w for w, n in seen.items() if 1 < n <= 2_000)}
    empty = np.empty(0, np.int64)
    if count == 0 or not kept:
        return empty, empty, np.empty(0)
    idf = {w: float(np.log(len(titles) / seen[w])) for w in kept}
    holders: list[list[int]] = [[] for _ in kept]
    for item, each in enumerate(words):
        for word in each:
            if word in kept:
                holders[kept[word]].append(item)
    norm = np.sqrt([sum(idf[w] ** 2 for w in each if w in kept) or 1.0 for each in words])
    found = list(_best_titles(words, kept, holders, idf, norm, count))
    left, right, cosine = (np.concatenate(part) for part in zip(*found, strict=True))
    return left, right, cosine


def _best_titles(
    words: list[list[str]],
    kept: dict[str, int],
    holders: list[list[int]],
    idf: dict[str, float],
    norm: np.ndarray,
    count: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    posting = [np.array(items) for items in holders]
    score = np.zeros(len(words))
    for item, each in enumerate(words):
        lists = [posting[kept[w]] for w in each if w in kept]
        if not lists:
            continue
        for word in each:
            if word in kept:
                score[posting[kept[word]]] += idf[word] ** 2
        others = np.unique(np.concatenate(lists))
        others = others[others != item]
        cosine = score[others] / (norm[others] * norm[item])
        score[np.concatenate(lists)] = 0.0
        best = np.lexsort((others, -cosine))[:count]
        best = best[cosine[best] >= 0.3]
        yield np.full(len(best), item), others[best], cosine[best]


def _top(
    size: int,
    left: np.ndarray,
    right: np.ndarray,
    weights: np.ndarray,
    similar: tuple[np.ndarray, ...],
    settings: NeighbourSettings,
) -> Neighbours:
    """Keep the best of each kind for each item and give every kept pair all its weights."""
    chosen = [
        (left * size + right)[_best_of_each(left, right, weights[:, 0], settings.together)],
        (left * size + right)[_best_of_each(left, right, weights[:, 1], settings.next)],
        similar[0] * size + similar[1],
    ]
    keys = np.unique(np.concatenate(chosen))
    table = np.zeros((len(keys), 3))
    table[:, :2] = _looked_up(keys, left * size + right, weights)
    order = np.argsort(chosen[2], kind="stable")
    table[:, 2:] = _looked_up(keys, chosen[2][order], similar[2][order, None])
    owner = keys // size
    place = np.arange(len(keys)) - np.searchsorted(owner, owner)
    width = settings.together + settings.next + settings.similar
    items = np.zeros((size, width), np.int32)
    full = np.zeros((size, width, 3), np.float16)
    items[owner, place] = keys % size
    full[owner, place] = table
    return Neighbours(items, full.astype(np.float32))


def _best_of_each(
    left: np.ndarray, right: np.ndarray, weight: np.ndarray, count: int
) -> np.ndarray:
    """Indices of the `count` heaviest pairs of each left item, ties to the lower right item."""
    some = np.flatnonzero(weight > 0)
    order = some[np.lexsort((right[some], -weight[some], left[some]))]
    owner = left[order]
    return order[np.arange(len(order)) - np.searchsorted(owner, owner) < count]


def _looked_up(keys: np.ndarray, among: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of `keys` in the sorted keys `among`, 0 where absent: [len(keys), columns]."""
    out = np.zeros((len(keys), values.shape[1]))
    if len(among):
        at = np.minimum(np.searchsorted(among, keys), len(among) - 1)
        found = among[at] == keys
        out[found] = values[at[found]]
    return out
