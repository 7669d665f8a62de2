"""How far a mean can be trusted: the bootstrap over sessions (Efron 1979; paired: Sakai 2006).

Sessions are drawn whole, with what they hold, since the predictions of one depend on each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_DRAWN = 1 << 22  # sessions that are drawn at once


class Interval(NamedTuple):
    """A mean and the bounds between which it lies with the confidence asked for."""

    mean: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether it is above zero, or below, at either bound."""
        return self.low > 0 or self.high < 0


def resampled_means(
    values: np.ndarray, owners: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Means of columns [N, M] over `resamples` draws of as many owners [N] as there are: [R, M].

    The same seed and owners give the same draws, whatever the values.
    """
    _, owner = np.unique(owners, return_inverse=True)
    size = owner.max() + 1
    counts = np.bincount(owner, minlength=size).astype(np.float64)
    sums = np.stack([np.bincount(owner, column, size) for column in values.T], axis=1)
    rng = np.random.default_rng(seed)
    at_once = max(_DRAWN // size, 1)
    means = []
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        times = times.astype(np.float64)
        means.append((times @ sums) / (times @ counts)[:, None])
    return np.concatenate(means)


def intervals(
    values: np.ndarray,
    owners: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> list[Interval]:
    """The mean of each column [N, M] and its percentile interval; owners [N] are the sessions."""
    if len(values) == 0:
        return [Interval(0.0, 0.0, 0.0)] * values.shape[1]
    drawn = resampled_means(values, owners, resamples, seed)
    outside = (1 - confidence) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside], axis=0)
    columns = zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*column) for column in columns]
