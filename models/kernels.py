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
def answerable(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sessions with a known item, int64 [<= S]: codes [N], -1 unknown; offsets [S + 1]."""
    chosen = np.empty(len(offsets) - 1, np.int64)
    count = 0
    for session in range(len(chosen)):
        for row in range(offsets[session], offsets[session + 1]):
            if codes[row] >= 0:
                chosen[count] = session
                count += 1
                break
    return chosen[:count]


@compiled
def sequences(vectors: np.ndarray, recent: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The item vectors [V, D] of recent items [B, L], oldest first: float32 [B, longest, D].

    Behind a shorter session its newest item is repeated.
    """
    longest = lengths.max()
    out = np.empty((len(recent), longest, vectors.shape[1]), np.float32)
    for b in range(len(recent)):
        for step in range(longest):
            out[b, step] = vectors[recent[b, max(lengths[b] - 1 - step, 0)]]
    return out


@compiled
def collect(
    recent: np.ndarray,  # int32 [B, L], newest first
    lengths: np.ndarray,  # int64 [B], how many of the L are there
    seen_starts: np.ndarray,  # int64 [B + 1]
    seen_items: np.ndarray,  # int32 [R]
    neural: np.ndarray,  # int64 [B, C], best first, -1 where there are fewer
    neural_scores: np.ndarray,  # float32 [B, C]
    neighbours: np.ndarray,  # int32 [V, K]
    weights: np.ndarray,  # float32 [V, K, 3], all 0 where there are fewer
    decay: np.ndarray,  # float32 [L, 3]
    popular: np.ndarray,  # int64 [P]
    alike_starts: np.ndarray,  # int64 [B + 1]
    alike_items: np.ndarray,  # int64 [K]
    alike_scores: np.ndarray,  # float32 [K, 2]
    alike_because: np.ndarray,  # int64 [K]
    place: np.ndarray,  # int32 [V], all -1: working memory, left as it was found
) -> tuple[np.ndarray, ...]:
    """Unite what the sources propose for each session, and what they say for it.

    Returns of M candidates, session by session: their session int64 [M], item int64 [M], starts
    int64 [B + 1], how often each is in the session int64 [M], the session's item that speaks most
    for it int64 [M] (-1: none), whether by title alone bool [M]; and the evidence float32 [M, 8]:
    score and rank in the index (0, 0: not found there), sums of its decayed co-visits, followings
    and title similarities, how often it follows the last item, both scores by sessions alike.
    """
    size, width = len(recent), neighbours.shape[1]
    room = len(seen_items) + lengths.sum() * width + size * (neural.shape[1] + len(popular))
    room += len(alike_items)
    rows, items = np.empty(room, np.int64), np.empty(room, np.int64)
    starts = np.zeros(size + 1, np.int64)
    seen = np.zeros(room, np.int64)
    because, by_title = np.full(room, -1, np.int64), np.zeros(room, np.bool_)
    evidence = np.zeros((room, 8), np.float32)
    claims = np.zeros(room, np.float32)
    end = 0
    for b in range(size):
        first = end
        for n in range(neural.shape[1]):
            if neural[b, n] < 0:
                break
            at, end = _slot(neural[b, n], items, place, end)
            evidence[at, 0], evidence[at, 1] = neural_scores[b, n], 10.0 / (10.0 + n)
        for back in range(lengths[b]):
            by = recent[b, back]
            for near in range(width):
                together = weights[by, near, 0] * decay[back, 0]
                following = weights[by, near, 1] * decay[back, 1]
                similar = weights[by, near, 2] * decay[back, 2]
                claim = together + following + np.float32(0.1) * similar
                if claim <= 0:
                    continue
                at, end = _slot(neighbours[by, near], items, place, end)
                evidence[at, 2] += together
                evidence[at, 3] += following
                evidence[at, 4] += similar
                if back == 0:
                    evidence[at, 5] = following
                if claim > claims[at] and items[at] != by:  # of equal ones the newest stays
                    claims[at], because[at] = claim, by
                    by_title[at] = together + following == 0
        for n in range(alike_starts[b], alike_starts[b + 1]):
            at, end = _slot(alike_items[n], items, place, end)
            evidence[at, 6], evidence[at, 7] = alike_scores[n, 0], alike_scores[n, 1]
            if (because[at] < 0 or by_title[at]) and alike_because[n] != items[at]:
                because[at], by_title[at] = alike_because[n], False
        for n in range(len(popular)):
            at, end = _slot(popular[n], items, place, end)
        for n in range(seen_starts[b], seen_starts[b + 1]):
            at, end = _slot(seen_items[n], items, place, end)
            seen[at] += 1
        for at in range(first, end):
            rows[at], place[items[at]] = b, -1
        starts[b + 1] = end
    return (
        rows[:end],
        items[:end],
        starts,
        seen[:end],
        because[:end],
        by_title[:end],
        evidence[:end],
    )


@compiled
def _slot(item: int, items: np.ndarray, place: np.ndarray, end: int) -> tuple[int, int]:
    """Where the session's candidate `item` is, added at `end` if new; and the new end."""
    at = int(place[item])
    if at >= 0:
        return at, end
    place[item], items[end] = end, item
    return end, end + 1


@compiled
def describe(
    recent: np.ndarray,  # int32 [B, L], newest first
    lengths: np.ndarray,  # int64 [B]
    starts: np.ndarray,  # int64 [B + 1]
    items: np.ndarray,  # int64 [M]
    seen: np.ndarray,  # int64 [M]
    evidence: np.ndarray,  # float32 [M, 8], as `collect` gives it
    session_vectors: np.ndarray,  # float32 [B, D]
    mean_prices: np.ndarray,  # float32 [B]
    vectors: np.ndarray,  # float32 [V, D]
    facts: np.ndarray,  # float32 [V, 2 + S]: category (negative: not known), log price (or NaN), …
) -> np.ndarray:
    """The ranker's features of M candidates: float32 [M, 17 + S], in CANDIDATE_FEATURES' order.

    What is known of an item lies together, since reading memory is most of the cost here.
    """
    static = facts.shape[1] - 2
    out = np.empty((len(items), 17 + static), np.float32)
    for b in range(len(recent)):
        best, most_together, most_following = np.float32(-np.inf), 1e-9, 1e-9
        most_alike, most_near = 1e-9, 1e-9
        for at in range(starts[b], starts[b + 1]):
            score, rank = evidence[at, 0], evidence[at, 1]
            if rank == 0:
                score = _dot(vectors[items[at]], session_vectors[b])
            out[at, 0] = score
            best = max(best, score)
            most_together = max(most_together, evidence[at, 2])
            most_following = max(most_following, evidence[at, 3])
            most_alike = max(most_alike, evidence[at, 6])
            most_near = max(most_near, evidence[at, 7])
        mean = mean_prices[b]
        log_mean = math.log(mean) if 0 < mean < 1e30 else math.nan
        for at in range(starts[b], starts[b + 1]):
            item, together, following = items[at], evidence[at, 2], evidence[at, 3]
            out[at, 1] = out[at, 0] - best
            out[at, 2] = evidence[at, 1]
            out[at, 3] = math.log1p(10.0 * together) if together > 0 else 0.0
            out[at, 4] = together / most_together
            out[at, 5] = math.log1p(10.0 * following) if following > 0 else 0.0
            out[at, 6] = following / most_following
            out[at, 7] = math.log1p(10.0 * evidence[at, 5]) if evidence[at, 5] > 0 else 0.0
            out[at, 8] = evidence[at, 4]
            alike, near = evidence[at, 6], evidence[at, 7]
            out[at, 9] = math.log1p(alike) if alike > 0 else 0.0
            out[at, 10] = alike / most_alike
            out[at, 11] = math.log1p(near) if near > 0 else 0.0
            out[at, 12] = near / most_near
            out[at, 13] = math.log1p(seen[at]) if seen[at] > 0 else 0.0
            out[at, 14] = 0.0
            category, ratio = facts[item, 0], facts[item, 1] - log_mean
            out[at, 15] = 0.0 if math.isnan(ratio) else min(max(ratio, -4.0), 4.0)
            matches = 0
            for back in range(lengths[b] - 1, -1, -1):
                matches += facts[recent[b, back], 0] == category
                if recent[b, back] == item:
                    out[at, 14] = 1.0 / (1 + back)
            out[at, 16] = matches / lengths[b] if category >= 0 else 0.0
            for column in range(static):
                out[at, 17 + column] = facts[item, 2 + column]
    return out


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # so that it becomes SIMD
def _dot(left: np.ndarray, right: np.ndarray) -> np.float32:
    """Inner product; its order of summation is fixed when it is compiled."""
    total = np.float32(0)
    for i in range(len(left)):
        total += left[i] * right[i]
    return total
