"""How alike two lists are: the share they have in common, and whether it is on top of both."""

from __future__ import annotations

import numpy as np

_ROWS = 4_096  # compared at once


def common(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many items the first d of two lists have in common, d = 1..k: int64 [N, k].

    The lists are codes of items [N, k], each item once; -1 where a list is shorter than k.
    """
    size, k = own.shape
    out = np.empty((size, k), np.int64)
    depth = np.maximum(np.arange(k)[:, None], np.arange(k)[None, :])  # from which both have it
    for at in range(0, size, _ROWS):
        mine, theirs = own[at : at + _ROWS], other[at : at + _ROWS]
        row, i, j = np.nonzero((mine[:, :, None] == theirs[:, None, :]) & (mine >= 0)[:, :, None])
        found = np.bincount(row * k + depth[i, j], minlength=len(mine) * k)
        out[at : at + _ROWS] = found.reshape(-1, k).cumsum(axis=1)
    return out


def jaccard(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Items in both lists over items in either, float64 [N]; 1 for two empty lists."""
    both = common(own, other)[:, -1]
    either = (own >= 0).sum(axis=1) + (other >= 0).sum(axis=1) - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def rank_biased(own: np.ndarray, other: np.ndarray, p: float = 0.9) -> np.ndarray:
    """Rank-biased overlap, extrapolated (Webber et al. 2010, equation 30), float64 [N].

    The top weighs most: with p = .9 the first ten places have 86 % of the weight. Lists of k
    places are compared; one that is shorter has no further items in common.
    """
    agreement = common(own, other)
    k = agreement.shape[1]
    depth = np.arange(1, k + 1)
    seen = (agreement / depth * p**depth).sum(axis=1) * (1 - p) / p
    return seen + agreement[:, -1] / k * p**k
