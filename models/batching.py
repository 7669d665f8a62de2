"""Sessions in batches for training, those of like length together, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_LIKE = 16  # batches in which sessions of like length are put together


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Rows of known items in session order: items, session int64 [N]."""

    items: np.ndarray
    session: np.ndarray


def batches(
    rows: ItemRows, length: int, batch_size: int, rng: np.random.Generator | None
) -> Iterator[np.ndarray]:
    """Chunks of sessions as int64 [B, length + 1], -1 behind the end; shuffled with `rng`."""
    starts = np.flatnonzero(np.append(True, np.diff(rows.session) != 0))
    counts = np.diff(np.append(starts, len(rows.items)))
    if rng is not None:  # long sessions are cut at other places in every epoch
        shift = rng.integers(0, length, len(starts)) * (counts > length + 1)
    else:
        shift = np.zeros(len(starts), np.int64)
    pieces = np.maximum((counts + shift - 2) // length + 1, 1)
    owner = np.repeat(np.arange(len(starts)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    low = starts[owner] + number * length - shift[owner]
    high = np.minimum(low + length + 1, starts[owner] + counts[owner])
    low = np.maximum(low, starts[owner])
    some = high - low >= 2
    low, high = low[some], high[some]
    order = np.arange(len(low)) if rng is None else _mixed_by_length(high - low, batch_size, rng)
    targets = np.cumsum((high - low - 1)[order])
    if len(targets) == 0:
        return
    cuts = np.searchsorted(targets, np.arange(batch_size, targets[-1], batch_size))
    parts = [part for part in np.split(order, cuts) if len(part)]
    if rng is not None:
        parts = [parts[place] for place in rng.permutation(len(parts))]
    for part in parts:
        place = low[part, None] + np.arange(length + 1)
        inside = place < high[part, None]
        yield np.where(inside, rows.items[np.minimum(place, len(rows.items) - 1)], -1)


def _mixed_by_length(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """A shuffled order in which neighbours are of like length."""
    order = rng.permutation(len(lengths))
    group = np.cumsum(lengths[order] - 1) // (_LIKE * batch_size)
    return order[np.lexsort((lengths[order], group))]
