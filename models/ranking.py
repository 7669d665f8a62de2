"""From scored candidates to lists: the best of each session, where they come from and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models import kernels
from models.candidates import CANDIDATE_FEATURES, Candidates

SOURCES = ("neighbours", "content", "neural", "trending", "popular")
_NEIGHBOURS, _CONTENT, _NEURAL, _TRENDING, _POPULAR = range(5)
_RANK, _TOGETHER, _NEXT = (
    CANDIDATE_FEATURES.index(name) for name in ("neural_rank", "together_share", "next_share")
)


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

    scores float32 [M], allowed bool [M].
    """
    found = kernels.best_of_each(scores, candidates.items, candidates.starts, allowed, count)
    return Chosen(*found)


def sources(chosen: Chosen, candidates: Candidates, trending: np.ndarray) -> np.ndarray:
    """Where each chosen candidate comes from, [B, n] index into SOURCES.

    It is the source with the best claim: its place among the neural candidates or its co-visits.
    `trending` bool [V] marks items that are on the rise.
    """
    picked = chosen.candidates
    features = candidates.features
    rank = features[picked, _RANK]
    covisits = np.maximum(features[picked, _TOGETHER], features[picked, _NEXT])
    neighbour = candidates.because[picked] >= 0
    neural = (rank > 0) & ~(neighbour & (covisits >= rank))
    near = np.where(candidates.by_title[picked], _CONTENT, _NEIGHBOURS)
    fallback = np.where(trending[candidates.items[picked]], _TRENDING, _POPULAR)
    return np.where(neural, _NEURAL, np.where(neighbour, near, fallback))
