"""From scored candidates to lists: the best of each session, where they come from and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.candidates import CANDIDATE_FEATURES, Candidates

SOURCES = ("neighbours", "content", "neural", "trending", "popular")
_NEIGHBOURS, _CONTENT, _NEURAL, _TRENDING, _POPULAR = range(5)
_RANK, _TOGETHER, _NEXT = (
    CANDIDATE_FEATURES.index(name) for name in ("neural_rank", "together_share", "next_share")
)
_EMPTY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The lists of B sessions: row b holds lengths[b] candidates, best first."""

    candidates: np.ndarray  # int64 [B, n], index into Candidates
    lengths: np.ndarray  # int64 [B]


def retrieval_scores(candidates: Candidates) -> np.ndarray:
    """A plain blend of the sources, float32 [M]: what answers when the ranker cannot."""
    shares = candidates.features
    return shares[:, _TOGETHER] + shares[:, _NEXT] + shares[:, _RANK]


def best_of_each(
    scores: np.ndarray, candidates: Candidates, allowed: np.ndarray, count: int
) -> Chosen:
    """The `count` best allowed candidates of each session; equal scores go by item index.

    scores float32 [M], allowed bool [M]. Keys are unique, so nothing is left to the sort.
    """
    size = len(candidates.starts) - 1
    lengths = np.diff(candidates.starts)
    within = np.arange(len(scores)) - candidates.starts[candidates.rows]
    bits = np.ascontiguousarray(scores, np.float32).view(np.uint32)
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (~rising).astype(np.uint64) << np.uint64(32) | within.astype(np.uint64)
    matrix = np.full((size, max(int(lengths.max()), count)), _EMPTY)
    matrix[candidates.rows[allowed], within[allowed]] = keys[allowed]
    if matrix.shape[1] > count:
        matrix = np.partition(matrix, count - 1, axis=1)[:, :count]
    matrix = np.sort(matrix, axis=1)
    found = matrix != _EMPTY
    place = np.where(found, matrix & np.uint64(0xFFFF_FFFF), 0).astype(np.int64)
    return Chosen(place + candidates.starts[:-1, None], found.sum(axis=1))


def explain(
    chosen: Chosen, candidates: Candidates, trending: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source code, the session's item that speaks most for it (-1: none), whether by title.

    All [B, n], for the candidates chosen; `trending` bool [V] marks items that are on the rise.
    """
    picked = chosen.candidates
    selected = np.zeros(len(candidates.rows), bool)
    selected[picked] = True
    entries = np.flatnonzero(selected[candidates.entry_candidate])
    owner = candidates.entry_candidate[entries]
    weights = candidates.entry_weights[entries]
    bought = weights[:, 0] + weights[:, 1]
    claim = bought + np.float32(0.1) * weights[:, 2]
    best = np.zeros(len(selected), np.float32)
    np.maximum.at(best, owner, claim)
    winner = np.flatnonzero((claim > 0) & (claim == best[owner]))[::-1]  # the newest stays
    because = np.full(len(selected), -1, np.int64)
    because[owner[winner]] = candidates.entry_item[entries[winner]]
    by_title = np.zeros(len(selected), bool)
    by_title[owner[winner]] = bought[winner] == 0
    source = _sources(candidates, picked, because[picked] >= 0, by_title[picked], trending)
    return source, because[picked], by_title[picked]


def _sources(
    candidates: Candidates,
    picked: np.ndarray,
    neighbour: np.ndarray,
    by_title: np.ndarray,
    trending: np.ndarray,
) -> np.ndarray:
    """The source with the best claim: its place among the neural candidates or co-visits."""
    shares = candidates.features[picked.ravel()].reshape(*picked.shape, -1)
    rank = shares[..., _RANK]
    covisits = np.maximum(shares[..., _TOGETHER], shares[..., _NEXT])
    fallback = np.where(trending[candidates.items[picked]], _TRENDING, _POPULAR)
    neural = (rank > 0) & ~(neighbour & (covisits >= rank))
    near = np.where(by_title, _CONTENT, _NEIGHBOURS)
    return np.where(neural, _NEURAL, np.where(neighbour, near, fallback))
