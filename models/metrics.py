"""How good lists are: next-item metrics from the rank of the item that came next."""

from __future__ import annotations

import numpy as np

from models.kernels import compiled

MISS = np.iinfo(np.int64).max
"""The rank of an item that is not ranked at all."""


def ranks_from_scores(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1-based rank of each target in its row, ties counted against it: scores [N, V], [N].

    A target of -1 (an item that training never saw) or a score that is not finite is a miss.
    """
    return _ranks(scores, targets)


@compiled
def _ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    ranks = np.full(len(targets), MISS, np.int64)
    for row, target in enumerate(targets):
        if target >= 0 and np.isfinite(scores[row, target]):
            own, rank = scores[row, target], 0
            for score in scores[row]:
                rank += score >= own
            ranks[row] = rank
    return ranks


@compiled
def first_items(scores: np.ndarray, length: int) -> np.ndarray:
    """The items of the best finite scores of each row, best first: int64 [B, length], then -1.

    Of equal scores the lower item comes first.
    """
    items = np.full((len(scores), length), -1, np.int64)
    best = np.full((len(scores), length), -np.inf)
    for row in range(len(scores)):
        for item, score in enumerate(scores[row]):
            if not (np.isfinite(score) and score > best[row, -1]):
                continue
            place = length - 1
            while place > 0 and score > best[row, place - 1]:
                best[row, place], items[row, place] = best[row, place - 1], items[row, place - 1]
                place -= 1
            best[row, place], items[row, place] = score, item
    return items


def ranks_from_lists(
    lists: list[list[str]], scores: list[list[float]], targets: list[str]
) -> np.ndarray:
    """1-based rank of each target in its list, ties counted against it; absent: a miss."""
    ranks = np.full(len(targets), MISS, np.int64)
    for row, (items, values, target) in enumerate(zip(lists, scores, targets, strict=True)):
        if target in items:
            own = values[items.index(target)]
            ranks[row] = sum(value >= own for value in values)
    return ranks


def hit_rate(ranks: np.ndarray, cutoff: int = 20) -> float:
    """Share of targets among the first `cutoff`."""
    return float(np.mean(ranks <= cutoff)) if len(ranks) else 0.0


def reciprocals(ranks: np.ndarray, cutoff: int = 20) -> np.ndarray:
    """1 / rank of each target, 0 beyond `cutoff`: float64 [N]."""
    return np.where(ranks <= cutoff, 1.0 / ranks, 0.0)


def reciprocal_rank(ranks: np.ndarray, cutoff: int = 20) -> float:
    """Mean of 1 / rank, 0 beyond `cutoff`."""
    return float(np.mean(reciprocals(ranks, cutoff))) if len(ranks) else 0.0


def gains(ranks: np.ndarray, cutoff: int = 20) -> np.ndarray:
    """1 / log2(1 + rank) of each target, 0 beyond `cutoff`: float64 [N]."""
    gain = 1.0 / np.log2(1.0 + np.minimum(ranks, cutoff + 1))
    return np.where(ranks <= cutoff, gain, 0.0)


def discounted_gain(ranks: np.ndarray, cutoff: int = 20) -> float:
    """NDCG with one right answer: mean of 1 / log2(1 + rank), 0 beyond `cutoff`."""
    return float(np.mean(gains(ranks, cutoff))) if len(ranks) else 0.0


def coverage(recommended: int, catalogue: int) -> float:
    """Share of the catalogue that is in at least one list."""
    return recommended / catalogue if catalogue else 0.0


def popularity_bias(recommended: np.ndarray, popularity: np.ndarray) -> float:
    """Mean popularity of the recommended items [R], as a share of the most popular one's [V]."""
    most = float(popularity.max(initial=0))
    return float(popularity[recommended].mean()) / most if len(recommended) and most else 0.0


def summary(ranks: np.ndarray, recommended: int, catalogue: int) -> dict[str, float]:
    """All metrics at 20, rounded to the fourth place."""
    values = {
        "hr20": hit_rate(ranks),
        "mrr20": reciprocal_rank(ranks),
        "ndcg20": discounted_gain(ranks),
        "coverage": coverage(recommended, catalogue),
    }
    return {name: round(value, 4) for name, value in values.items()}
