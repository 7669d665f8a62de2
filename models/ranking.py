"""From scored candidates to lists: the best of each session, where they come from and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.candidates import CANDIDATE_FEATURES
from models.kernels import compiled

SOURCES = ("neighbours", "content", "neural", "trending", "popular")
_NEIGHBOURS, _CONTENT, _NEURAL, _TRENDING, _POPULAR = range(5)
_RANK, _TOGETHER, _NEXT, _ALIKE = (
    CANDIDATE_FEATURES.index(name)
    for name in ("neural_rank", "together_share", "next_share", "alike_share")
)

FITS, TRENDS, POPULAR = "fits this session", "popular this week", "popular overall"
_SIMILAR = "similar to"


@compiled
def fall_back(scores: np.ndarray, starts: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Which sessions have a score that is not finite, bool [B]; they are scored anew, in place.

    A plain blend of the sources answers when the ranker cannot. Scores float32 [M], starts
    int64 [B + 1], features float32 [M, F].
    """
    failed = np.zeros(len(starts) - 1, np.bool_)
    for b in range(len(failed)):
        for at in range(starts[b], starts[b + 1]):
            failed[b] |= not math.isfinite(scores[at])
        if failed[b]:
            for at in range(starts[b], starts[b + 1]):
                said = features[at]
                scores[at] = said[_TOGETHER] + said[_NEXT] + said[_ALIKE] + said[_RANK]
    return failed


@compiled
def best_of_each(
    scores: np.ndarray,  # float32 [M]
    items: np.ndarray,  # int64 [M]
    starts: np.ndarray,  # int64 [B + 1]
    left_out: np.ndarray,  # bool [M]
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best candidates of each session, best first; ties go by item.

    Returns indices into the candidates, int64 [B, count], 0 behind the last, and lengths [B].
    """
    size = len(starts) - 1
    chosen = np.zeros((size, count), np.int64)
    lengths = np.zeros(size, np.int64)
    for b in range(size):
        best, n = chosen[b], 0
        for at in range(starts[b], starts[b + 1]):
            if left_out[at]:
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


@compiled
def explain(
    chosen: np.ndarray,  # int64 [B, n], index into the candidates
    items: np.ndarray,  # int64 [M]
    features: np.ndarray,  # float32 [M, F]
    because: np.ndarray,  # int64 [M], -1: none
    by_title: np.ndarray,  # bool [M]
    trending: np.ndarray,  # bool [V], items on the rise
) -> tuple[np.ndarray, np.ndarray]:
    """Where each chosen candidate comes from, and why it is there: int64 [B, n] both.

    The source, an index into SOURCES, is the one with the best claim: its place in the index, its
    co-visits or the past sessions alike. The reason is a key of `Reasons`.
    """
    source, reason = np.empty_like(chosen), np.empty_like(chosen)
    size = len(trending)
    for b in range(len(chosen)):
        for n in range(chosen.shape[1]):
            at = chosen[b, n]
            near, rank = because[at] >= 0, features[at, _RANK]
            visits = max(features[at, _TOGETHER], features[at, _NEXT], features[at, _ALIKE])
            if rank > 0 and not (near and visits >= rank):
                source[b, n] = _NEURAL
            elif near:
                source[b, n] = _CONTENT if by_title[at] else _NEIGHBOURS
            else:
                source[b, n] = _TRENDING if trending[items[at]] else _POPULAR
            if near:
                block = by_title[at] + 2 * (source[b, n] == _NEURAL)
                reason[b, n] = block * size + because[at]
            else:
                reason[b, n] = 4 * size + max(source[b, n] - _NEURAL, 0)
    return source, reason


class Reasons(dict[int, tuple[str, ...]]):
    """The texts of the reasons that `explain` counts, for items that are called `names`.

    A text is made when it is first asked for: of millions of items, few are ever a reason. It is
    a tuple, which the garbage collector does not look at again.
    """

    def __init__(self, names: Sequence[str], together: str) -> None:
        super().__init__()
        self._names, self._together = names, together

    def __missing__(self, reason: int) -> tuple[str, ...]:
        block, place = divmod(reason, len(self._names))
        if block < 4:
            because = f"{_SIMILAR if block % 2 else self._together} {self._names[place]}"
            self[reason] = (FITS, because) if block >= 2 else (because,)
        else:
            self[reason] = ((FITS, TRENDS, POPULAR)[reason - 4 * len(self._names)],)
        return self[reason]
