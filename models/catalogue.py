"""The items a bundle knows: ids, titles, prices and what the ranker reads of each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from models.sessions import SessionLog

STATIC_FEATURES = (
    "log_popularity",  # log(1 + events of the item in training)
    "log_recent_popularity",  # the same, events halving in weight with age
    "trend",  # recent popularity against all-time popularity, log ratio
    "log_days_unseen",  # log(1 + days between its last event and the end of training)
    "log_price",  # 0 where not known
)
"""What the ranker reads of an item without looking at the session, in column order."""

_DAY_MS = 86_400_000
_STEP = 4096  # items


@dataclass(frozen=True)
class Catalogue:
    """V items as parallel columns, most popular first."""

    item_ids: list[str]
    titles: list[str | None]
    categories: np.ndarray  # int32 [V], code of the category, -1 where not known
    prices: np.ndarray  # float32 [V], median price, 0 where not known
    popularity: np.ndarray  # float32 [V], events in training
    recent: np.ndarray  # float32 [V], events in training, weighted by age
    days_unseen: np.ndarray  # float32 [V], age of the last event at the end of training

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Where each item is; made when it is first asked for, do not change it."""
        return {item: place for place, item in enumerate(self.item_ids)}

    def places(self, item_ids: Iterable[str]) -> np.ndarray:
        """Where each of the items is, -1 where it is not known: int64."""
        return np.array([self.index.get(item, -1) for item in item_ids], np.int64)

    def static_features(self) -> np.ndarray:
        """What the ranker reads of each item: float32 [V, len(STATIC_FEATURES)]."""
        scale = self.popularity.sum() / max(float(self.recent.sum()), 1e-9)
        columns = (
            np.log1p(self.popularity),
            np.log1p(self.recent),
            np.log((self.recent * scale + 5.0) / (self.popularity + 5.0)),
            np.log1p(self.days_unseen),
            np.where(self.prices > 0, np.log(np.maximum(self.prices, 1e-6)), 0.0),
        )
        return np.ascontiguousarray(np.stack(columns, axis=1), np.float32)

    def to_table(self) -> pa.Table:
        """The catalogue as Arrow columns, in the order of the items' indices."""
        return pa.table(
            {
                "item_id": pa.array(self.item_ids, pa.string()),
                "title": pa.array(self.titles, pa.string()),
                "category": pa.array(self.categories, pa.int32()),
                "price": pa.array(self.prices, pa.float32()),
                "popularity": pa.array(self.popularity, pa.float32()),
                "recent": pa.array(self.recent, pa.float32()),
                "days_unseen": pa.array(self.days_unseen, pa.float32()),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Catalogue:
        """Read what `to_table` wrote; raises KeyError or ArrowInvalid for foreign columns."""
        return cls(
            _texts(table["item_id"]),
            _texts(table["title"]),
            _numbers(table["category"], np.int32),
            _numbers(table["price"], np.float32),
            _numbers(table["popularity"], np.float32),
            _numbers(table["recent"], np.float32),
            _numbers(table["days_unseen"], np.float32),
        )


def _texts(column: pa.ChunkedArray) -> list[Any]:
    """A column as a list, in steps between which other threads may run."""
    parts = (part.slice(at, _STEP) for part in column.chunks for at in range(0, len(part), _STEP))
    return [text for part in parts for text in part.to_pylist()]


def _numbers(column: pa.ChunkedArray, kind: type) -> np.ndarray:
    """A column without nulls as an array; by its buffer, since to_numpy would import pandas."""
    if column.type != pa.from_numpy_dtype(kind) or column.null_count:
        raise ValueError(f"expected {np.dtype(kind).name} without nulls; got {column.type}")
    size = np.dtype(kind).itemsize
    parts: list[np.ndarray] = [
        np.frombuffer(part.buffers()[1], kind, len(part), part.offset * size)
        for part in column.chunks
    ]
    return np.concatenate(parts) if parts else np.empty(0, kind)


def catalogue_of(
    log: SessionLog, min_count: int, max_items: int, half_life_days: float
) -> tuple[Catalogue, np.ndarray]:
    """The items seen at least `min_count` times, and the map from the log's codes to them.

    The map is int32 [codes of the log], -1 for items that are left out. Items are ordered by
    popularity, then by first appearance.
    """
    codes = len(log.facts.ids)
    counts = np.bincount(log.items, minlength=codes)
    known = np.flatnonzero(counts >= max(min_count, 1))
    known = known[np.argsort(-counts[known], kind="stable")][:max_items]
    index = np.full(codes, -1, np.int32)
    index[known] = np.arange(len(known))
    age = (log.times.max() - log.times) / _DAY_MS
    recent = np.bincount(log.items, weights=0.5 ** (age / half_life_days), minlength=codes)
    last = np.full(codes, log.times.min(), np.int64)
    np.maximum.at(last, log.items, log.times)
    names = sorted({name for name in log.facts.categories if name is not None})
    category = {name: code for code, name in enumerate(names)}
    catalogue = Catalogue(
        [log.facts.ids[code] for code in known],
        [log.facts.titles[code] for code in known],
        np.array([category.get(log.facts.categories[c] or "", -1) for c in known], np.int32),
        _median_prices(log, codes)[known],
        counts[known].astype(np.float32),
        recent[known].astype(np.float32),
        ((log.times.max() - last[known]) / _DAY_MS).astype(np.float32),
    )
    return catalogue, index


def updated_catalogue(
    before: Catalogue,
    until_ms: int,
    log: SessionLog,
    seen: Mapping[str, int],
    min_count: int,
    max_items: int,
    half_life_days: float,
) -> tuple[Catalogue, np.ndarray]:
    """`before`, as it was at `until_ms`, after the sessions of `log`; and what `catalogue_of` maps.

    A new item must occur `min_count` times in the log and in `seen`, which counts what is known
    of items that are not in the catalogue yet.
    """
    fresh, code = catalogue_of(log, 1, len(log.facts.ids), half_life_days)
    places = dict(before.index)
    place = np.array([places.setdefault(item, len(places)) for item in fresh.item_ids], np.int64)
    ids, old, size = list(places), len(before), len(places)
    both = np.concatenate([np.arange(old), place])
    now = max(until_ms, int(log.times.max()))
    age = np.array([now - until_ms, now - int(log.times.max())]).repeat([old, len(fresh)]) / _DAY_MS

    popularity = np.bincount(both, np.append(before.popularity, fresh.popularity))
    popularity[old:] += [seen.get(item, 0) for item in ids[old:]]
    recent = np.append(before.recent, fresh.recent) * 0.5 ** (age / half_life_days)
    unseen = np.full(size, np.inf)
    np.minimum.at(unseen, both, np.append(before.days_unseen, fresh.days_unseen) + age)
    prices = np.append(before.prices, np.zeros(size - old))
    prices[place] = np.where(fresh.prices > 0, fresh.prices, prices[place])
    titles = before.titles + [None] * (size - old)
    for at, title in zip(place.tolist(), fresh.titles, strict=True):
        titles[at] = title or titles[at]

    known = np.flatnonzero((np.arange(size) < old) | (popularity >= min_count))
    known = known[np.argsort(-popularity[known], kind="stable")][:max_items]
    index = np.full(size, -1, np.int32)
    index[known] = np.arange(len(known))
    catalogue = Catalogue(
        [ids[at] for at in known.tolist()],
        [titles[at] for at in known.tolist()],
        _categories(before, fresh, place)[known],
        prices[known].astype(np.float32),
        popularity[known].astype(np.float32),
        np.bincount(both, recent)[known].astype(np.float32),
        unseen[known].astype(np.float32),
    )
    return catalogue, np.where(code >= 0, index[place[code]], -1).astype(np.int32)


def _categories(before: Catalogue, fresh: Catalogue, place: np.ndarray) -> np.ndarray:
    """Categories of both catalogues in the codes of `before`; `place` is where fresh items are.

    Codes have no names: a category of `fresh` is the one of `before` that most of its items had.
    """
    codes = before.categories.max(initial=-1) + 1
    out = np.full(max(len(before), place.max() + 1), -1, np.int32)
    out[: len(before)] = before.categories
    had, told = out[place], fresh.categories >= 0
    meaning = np.arange(fresh.categories.max() + 1) + codes
    shared = np.flatnonzero((had >= 0) & told)
    pairs, count = np.unique(
        np.stack([fresh.categories[shared], had[shared]]), axis=1, return_counts=True
    )
    order = np.argsort(count, kind="stable")
    meaning[pairs[0, order]] = pairs[1, order]  # the most frequent is written last
    missing = np.flatnonzero((had < 0) & told)
    out[place[missing]] = meaning[fresh.categories[missing]]
    return out


def _median_prices(log: SessionLog, codes: int) -> np.ndarray:
    """Median of the known prices of each code (the lower of two middles), 0 without any."""
    rows = np.flatnonzero(~np.isnan(log.prices))
    rows = rows[np.lexsort((log.prices[rows], log.items[rows]))]
    items = log.items[rows]
    first = np.searchsorted(items, np.arange(codes))
    count = np.searchsorted(items, np.arange(codes), side="right") - first
    out = np.zeros(codes, np.float32)
    some = count > 0
    out[some] = log.prices[rows[first[some] + (count[some] - 1) // 2]]
    return out
