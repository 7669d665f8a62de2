"""The inner loops of serving, compiled by numba: one session after another, alone or in a batch.

Every loop works within one session and in a fixed order, so a batch changes no bit of a result.
The machine code is kept beside this file (or under NUMBA_CACHE_DIR) and compiled once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

compiled: Callable[..., Any] = njit(cache=True, nogil=True)


@compiled
def recent_of(
    codes: np.ndarray, offsets: np.ndarray, chosen: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The known items of the sessions `chosen` [B] of a batch: codes [N], offsets [S + 1].

    Returns the last `length` of each, newest first and -1 behind them, int32 [B, L]; how many
    there are, int64 [B]; where each session's known items start, int64 [B + 1]; those items.
    """
    size = len(chosen)
    last = np.full((size, length), -1, np.int32)
    lengths = np.zeros(size, np.int64)
    starts = np.zeros(size + 1, np.int64)
    total = 0
    for b in range(size):
        total += offsets[chosen[b] + 1] - offsets[chosen[b]]
    items = np.empty(total, np.int32)
    end = 0
    for b in range(size):
        for row in range(offsets[chosen[b]], offsets[chosen[b] + 1]):
            if codes[row] >= 0:
                items[end] = codes[row]
                end += 1
        starts[b + 1] = end
        lengths[b] = min(end - starts[b], length)
        for back in range(lengths[b]):
            last[b, back] = items[end - 1 - back]
    return last, lengths, starts, items[:end]


@compiled
def gather(
    recent: np.ndarray,  # int32 [B, L], newest first, -1 behind
    seen_starts: np.ndarray,  # int64 [B + 1]
    seen_items: np.ndarray,  # int32 [R]
    neural: np.ndarray,  # int64 [B, C], best first, -1 where there are fewer
    session_vectors: np.ndarray,  # float32 [B, D]
    mean_prices: np.ndarray,  # float32 [B]
    neighbours: np.ndarray,  # int32 [V, K]
    weights: np.ndarray,  # float32 [V, K, 3], all 0 where there are fewer
    decay: np.ndarray,  # float32 [L, 3]
    popular: np.ndarray,  # int64 [P]
    vectors: np.ndarray,  # float32 [V, D]
    log_prices: np.ndarray,  # float32 [V], NaN where not known
    categories: np.ndarray,  # int32 [V], negative where not known
    static: np.ndarray,  # float32 [V, S]
    place: np.ndarray,  # int32 [V], all -1: working memory, left as it was found
) -> tuple[np.ndarray, ...]:
    """Unite what the sources propose and compute the ranker's features of each candidate.

    Returns of M candidates, session by session: their session int64 [M], item int64 [M], starts
    int64 [B + 1], features float32 [M, 12 + S], how often each is in the session int64 [M], the
    session's item that speaks most for it int64 [M] (-1: none), whether by title bool [M].
    """
    size, width = len(recent), neighbours.shape[1]
    room = size * (recent.shape[1] * width + neural.shape[1] + len(popular)) + len(seen_items)
    rows, items = np.empty(room, np.int64), np.empty(room, np.int64)
    starts = np.zeros(size + 1, np.int64)
    out = np.empty((room, 12 + static.shape[1]), np.float32)
    seen = np.empty(room, np.int64)
    because, by_title = np.empty(room, np.int64), np.empty(room, np.bool_)
    totals = np.empty((room, 3))
    claims = np.empty(room, np.float32)
    end = 0
    for b in range(size):
        first = end
        for source in range(4):  # 0 neural, 1 neighbours, 2 popular, 3 the session's own
            if source == 0:
                count = neural.shape[1]
            elif source == 1:
                count = recent.shape[1] * width
            elif source == 2:
                count = len(popular)
            else:
                count = seen_starts[b + 1] - seen_starts[b]
            for n in range(count):
                back, near = n // width, n % width
                if source == 0:
                    item = neural[b, n]
                    if item < 0:
                        break
                elif source == 1:
                    by = recent[b, back]
                    if by < 0:
                        break
                    if weights[by, near, 0] + weights[by, near, 1] + weights[by, near, 2] == 0:
                        continue
                    item = np.int64(neighbours[by, near])
                elif source == 2:
                    item = popular[n]
                else:
                    item = np.int64(seen_items[seen_starts[b] + n])
                at = place[item]
                if at < 0:
                    at, place[item] = end, end
                    rows[at], items[at], seen[at] = b, item, 0
                    because[at], by_title[at], claims[at] = -1, False, 0
                    totals[at, 0], totals[at, 1], totals[at, 2] = 0, 0, 0
                    out[at, 2], out[at, 7] = 0, 0
                    end += 1
                if source == 0:
                    out[at, 2] = 10.0 / (10.0 + n)
                elif source == 1:
                    together = weights[by, near, 0] * decay[back, 0]
                    following = weights[by, near, 1] * decay[back, 1]
                    similar = weights[by, near, 2] * decay[back, 2]
                    totals[at, 0] += together
                    totals[at, 1] += following
                    totals[at, 2] += similar
                    if back == 0:
                        out[at, 7] = math.log1p(10.0 * following)
                    claim = together + following + np.float32(0.1) * similar
                    if claim > claims[at]:  # of equal ones the newest stays
                        claims[at], because[at] = claim, by
                        by_title[at] = together + following == 0
                elif source == 3:
                    seen[at] += 1
        starts[b + 1] = end
        best_neural, best_together, best_following = np.float32(-np.inf), 1e-9, 1e-9
        for at in range(first, end):
            product = _dot(vectors[items[at]], session_vectors[b])
            out[at, 0] = product
            best_neural = max(best_neural, product)
            best_together = max(best_together, totals[at, 0])
            best_following = max(best_following, totals[at, 1])
        mean = mean_prices[b]
        log_mean = math.log(mean) if 0 < mean < 1e30 else math.nan
        for at in range(first, end):
            item = items[at]
            out[at, 1] = out[at, 0] - best_neural
            out[at, 3] = math.log1p(10.0 * totals[at, 0]) if totals[at, 0] > 0 else 0.0
            out[at, 4] = totals[at, 0] / best_together
            out[at, 5] = math.log1p(10.0 * totals[at, 1]) if totals[at, 1] > 0 else 0.0
            out[at, 6] = totals[at, 1] / best_following
            out[at, 8] = totals[at, 2]
            out[at, 9] = math.log1p(seen[at]) if seen[at] > 0 else 0.0
            ratio = log_prices[item] - log_mean
            out[at, 10] = 0.0 if math.isnan(ratio) else min(max(ratio, -4.0), 4.0)
            matches, known = 0, 0
            for back in range(recent.shape[1]):
                if recent[b, back] < 0:
                    break
                known += 1
                matches += categories[recent[b, back]] == categories[item]
            out[at, 11] = matches / known if categories[item] >= 0 else 0.0
            for column in range(static.shape[1]):
                out[at, 12 + column] = static[item, column]
            place[item] = -1
    return (
        rows[:end],
        items[:end],
        starts,
        out[:end],
        seen[:end],
        because[:end],
        by_title[:end],
    )


@compiled
def _dot(left: np.ndarray, right: np.ndarray) -> np.float32:
    """Inner product in four partial sums, so that no addition waits for the one before."""
    a = b = c = d = np.float32(0)
    whole = len(left) // 4 * 4
    for i in range(0, whole, 4):
        a += left[i] * right[i]
        b += left[i + 1] * right[i + 1]
        c += left[i + 2] * right[i + 2]
        d += left[i + 3] * right[i + 3]
    for i in range(whole, len(left)):
        a += left[i] * right[i]
    return (a + b) + (c + d)


@compiled
def best_of_each(
    scores: np.ndarray,  # float32 [M]
    items: np.ndarray,  # int64 [M]
    starts: np.ndarray,  # int64 [B + 1]
    allowed: np.ndarray,  # bool [M]
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best allowed candidates of each session, best first; ties go by item.

    Returns indices into the candidates, int64 [B, count], 0 behind the last, and lengths [B].
    """
    size = len(starts) - 1
    chosen = np.zeros((size, count), np.int64)
    lengths = np.zeros(size, np.int64)
    for b in range(size):
        best, n = chosen[b], 0
        for at in range(starts[b], starts[b + 1]):
            if not allowed[at]:
                continue
            rank = n
            while rank > 0 and (
                scores[at] > scores[best[rank - 1]]
                or (scores[at] == scores[best[rank - 1]] and items[at] < items[best[rank - 1]])
            ):
                rank -= 1
            if rank == count:
                continue
            n = min(n + 1, count)
            for later in range(n - 1, rank, -1):
                best[later] = best[later - 1]
            best[rank] = at
        lengths[b] = n
    return chosen, lengths
