"""Which items may be in a list, and what the ranker reads of each of them.

    recent items ─┬─ encoder ─ session vector ─ FAISS ─┐
                  └─ neighbours of each, decayed ──────┼─ union by (session, item) ─ [M, F]
    trending and popular, the session's own items ─────┘

Everything is flat over the sessions of a chunk: candidate m belongs to session rows[m]. Every
sum runs in an order that depends on the session alone, so a batch changes no bit of a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.catalogue import STATIC_FEATURES
from udfs.session_features import FEATURES, SessionBatch

CANDIDATE_FEATURES = (
    "neural_score",  # inner product of session and item vector
    "neural_behind_best",  # the same minus the best of the session's candidates
    "neural_rank",  # 10 / (10 + rank among the neural candidates), 0 if not among them
    "together",  # log(1 + 10 × sum of decayed co-visits with the recent items)
    "together_share",  # sum of decayed co-visits against the session's best candidate
    "next",  # log(1 + 10 × sum of decayed followings)
    "next_share",
    "next_of_last",  # log(1 + 10 × how often it follows the last item)
    "similar",  # sum of decayed title similarities
    "seen",  # log(1 + times the item is in the session)
    "price_ratio",  # log of its price to the session's mean price, 0 where either is not known
    "category_match",  # share of the recent items that have its category
    *STATIC_FEATURES,
)
"""Names of the columns of `Candidates.features`, in order; part of a bundle's schema."""

_MEAN_PRICE = FEATURES.index("mean_price")
MOST = np.float32(1e9)  # session features beyond it say no more
_ENTRY_BITS = 22
TABLE_UP_TO = 100_000  # items; up to here a table of all of them is faster than a sort


class Blend(BaseModel):
    """How candidates are gathered; the ranker is trained on these, so a bundle fixes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recent: int = Field(default=10, ge=1, le=100, description="items of a session looked at")
    neural: int = Field(default=80, ge=1, description="candidates from the index")
    popular: int = Field(default=30, ge=1, description="candidates that are trending or popular")
    together_decay: float = Field(
        default=0.75, gt=0, le=1, description="weight of co-visits for each step back"
    )
    next_decay: float = Field(
        default=0.5, gt=0, le=1, description="weight of followings for each step back"
    )
    similar_decay: float = Field(
        default=0.75, gt=0, le=1, description="weight of similar titles for each step back"
    )


@dataclass(frozen=True, slots=True)
class Recent:
    """The known items of B sessions, each of which has at least one."""

    codes: np.ndarray  # int32 [B, L], the last L known items, newest first, -1 behind them
    lengths: np.ndarray  # int64 [B], how many of the L are there
    seen_rows: np.ndarray  # int64 [R], session of every known row of the session
    seen_items: np.ndarray  # int64 [R], its item


@dataclass(frozen=True, slots=True)
class Candidates:
    """M candidates of B sessions, ordered by session and item."""

    rows: np.ndarray  # int64 [M], session
    items: np.ndarray  # int64 [M], item
    starts: np.ndarray  # int64 [B + 1], session b owns candidates starts[b]:starts[b+1]
    features: np.ndarray  # float32 [M, len(CANDIDATE_FEATURES)]
    seen: np.ndarray  # bool [M], whether the item is in the session already
    entry_candidate: np.ndarray  # int [E], candidate of every (recent item, neighbour)
    entry_item: np.ndarray  # int32 [E], that recent item
    entry_weights: np.ndarray  # float32 [E, 3], decayed, see covisits.KINDS


def known_items(batch: SessionBatch, index: dict[str, int]) -> np.ndarray:
    """Index of the item of every row of a batch, -1 where the catalogue lacks it: int32 [N]."""
    unknown = [-1] * len(batch.items)
    return np.fromiter(map(index.get, batch.items, unknown), np.int32, len(batch.items))


def recent_items(codes: np.ndarray, session: np.ndarray, size: int, length: int) -> Recent:
    """The last `length` known items of each of `size` sessions; codes, session are [N].

    Every session must have a known item. Rows are in session order, oldest first.
    """
    rows = np.flatnonzero(codes >= 0)
    owner, known = session[rows], codes[rows]
    ends = np.cumsum(np.bincount(owner, minlength=size))
    back = ends[owner] - 1 - np.arange(len(rows))
    near = back < length
    matrix = np.full((size, length), -1, np.int32)
    matrix[owner[near], back[near]] = known[near]
    lengths = np.minimum(np.diff(ends, prepend=0), length)
    return Recent(matrix, lengths, owner.astype(np.int64), known.astype(np.int64))


def session_context(features: np.ndarray) -> np.ndarray:
    """Session features [B, F] as the ranker reads them: log(1 + x), bounded, float32.

    This is not left to the network: ONNX Runtime computes the logarithm of the last few numbers
    of an array in another way than that of the others, and so a batch would change bits.
    """
    return np.log1p(np.clip(features, 0.0, MOST))


class CandidateBuilder:
    """Joins what the sources propose and computes the ranker's features; not thread-safe."""

    def __init__(
        self,
        vectors: np.ndarray,
        neighbour_items: np.ndarray,
        neighbour_weights: np.ndarray,
        static: np.ndarray,
        prices: np.ndarray,
        categories: np.ndarray,
        popular: np.ndarray,
        blend: Blend,
    ) -> None:
        self._vectors = vectors  # float32 [V, D]
        self._neighbours = neighbour_items.astype(np.int64)  # [V, K]
        self._weights = neighbour_weights  # float32 [V, K, 3]
        self._static = static  # float32 [V, S]
        known = prices > 0
        self._log_prices = np.where(known, np.log(np.where(known, prices, 1.0)), np.nan)
        self._log_prices = self._log_prices.astype(np.float32)
        self._categories = categories.astype(np.int64) + 1  # 0: not known
        self._kinds = int(self._categories.max()) + 1
        self._popular = popular[: blend.popular].astype(np.int64)
        self._table = KeyTable()
        steps = np.arange(blend.recent)[:, None]
        decays = np.array([[blend.together_decay, blend.next_decay, blend.similar_decay]])
        self._decay = (decays**steps).astype(np.float32)  # [L, 3]

    def gather(
        self,
        recent: Recent,
        session_vectors: np.ndarray,
        neural: np.ndarray,
        features: np.ndarray,
    ) -> Candidates:
        """Candidates of B sessions: vectors [B, D], neural candidates [B, C], features [B, F]."""
        size = len(recent.codes)
        owner, place = np.nonzero(recent.codes >= 0)
        source = recent.codes[owner, place]
        width = self._neighbours.shape[1]
        weights = self._weights[source] * self._decay[place][:, None, :]
        every = np.arange(size)[:, None]
        keys = self._keys(owner[:, None], self._neighbours[source])
        near = self._keys(every, np.where(neural < 0, self._popular[0], neural))
        popular = self._keys(every, self._popular[None, :])
        own = self._keys(recent.seen_rows, recent.seen_items)
        candidate, unique = self._united(np.concatenate([keys, near, popular, own]), size)
        starts = np.searchsorted(unique, np.arange(size + 1) * len(self._vectors))
        rows = np.repeat(np.arange(size), starts[1:] - starts[:-1])
        items = unique - rows * len(self._vectors)
        entry = candidate[: len(keys)]
        of_near = candidate[len(keys) : len(keys) + len(near)]
        of_own = candidate[len(candidate) - len(own) :]
        flat = weights.reshape(-1, 3)
        out = np.empty((len(rows), len(CANDIDATE_FEATURES)), np.float32)
        self._neural(out, rows, items, starts, session_vectors, of_near, neural.shape[1])
        _covisits(out, entry, flat, rows, starts, np.repeat(place == 0, width))
        seen = np.bincount(of_own, minlength=len(rows))
        out[:, 9] = np.log1p(seen)
        self._affinity(out, rows, items, recent, features)
        out[:, 12:] = self._static[items]
        return Candidates(rows, items, starts, out, seen > 0, entry, np.repeat(source, width), flat)

    def _keys(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return (rows * len(self._vectors) + items).ravel()

    def _united(self, keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        if len(self._vectors) <= TABLE_UP_TO:
            return self._table.united(keys, size * len(self._vectors))
        return united_by_sort(keys)

    def _neural(
        self,
        out: np.ndarray,
        rows: np.ndarray,
        items: np.ndarray,
        starts: np.ndarray,
        session_vectors: np.ndarray,
        of_near: np.ndarray,
        count: int,
    ) -> None:
        vectors, products = self._vectors[items], np.empty(len(items), np.float32)
        bounds = starts.tolist()
        for session, (low, high) in enumerate(pairwise(bounds)):
            np.einsum(  # not a BLAS product: that may sum in another order for another shape
                "md,d->m", vectors[low:high], session_vectors[session], out=products[low:high]
            )
        out[:, 0] = products
        out[:, 1] = products - np.maximum.reduceat(products, starts[:-1])[rows]
        out[:, 2] = 0.0
        by_rank = (10.0 / (10.0 + np.arange(count))).astype(np.float32)
        out[of_near, 2] = np.tile(by_rank, len(of_near) // count)

    def _affinity(
        self,
        out: np.ndarray,
        rows: np.ndarray,
        items: np.ndarray,
        recent: Recent,
        features: np.ndarray,
    ) -> None:
        mean = features[:, _MEAN_PRICE]
        log_mean = np.log(np.where((mean > 0) & (mean < 1e30), mean, np.nan))
        ratio = self._log_prices[items] - log_mean[rows].astype(np.float32)
        out[:, 10] = np.clip(np.where(np.isnan(ratio), 0.0, ratio), -4.0, 4.0)
        if self._kinds == 1:
            out[:, 11] = 0.0
        else:
            out[:, 11] = self._category_share(rows, items, recent)

    def _category_share(self, rows: np.ndarray, items: np.ndarray, recent: Recent) -> np.ndarray:
        """Share of the recent items of a session that have each candidate's category: [M]."""
        kinds = self._kinds
        owner, place = np.nonzero(recent.codes >= 0)
        keys = owner * kinds + self._categories[recent.codes[owner, place]]
        counts = np.bincount(keys, minlength=len(recent.codes) * kinds)
        share = counts[rows * kinds + self._categories[items]] / recent.lengths[rows]
        return np.where(self._categories[items] > 0, share, 0.0)


class KeyTable:
    """Finds equal keys by writing into a table of all that may occur; it is kept and reused."""

    def __init__(self) -> None:
        self._there = np.zeros(0, bool)
        self._place = np.zeros(0, np.int32)

    def united(self, keys: np.ndarray, space: int) -> tuple[np.ndarray, np.ndarray]:
        """What `united_by_sort` returns, for keys below `space`."""
        if len(self._there) < space:
            self._there, self._place = np.zeros(space, bool), np.zeros(space, np.int32)
        self._there[keys] = True
        unique = np.flatnonzero(self._there[:space])
        self._there[unique] = False
        self._place[unique] = np.arange(len(unique), dtype=np.int32)
        return self._place[keys], unique


def united_by_sort(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which unique key each key is, int [E], and the unique keys in order, int64 [M]."""
    if len(keys) >> _ENTRY_BITS:
        raise ValueError(f"expected fewer than {1 << _ENTRY_BITS} entries; got {len(keys)}")
    packed = (keys << _ENTRY_BITS) | np.arange(len(keys))  # a plain sort is faster than argsort
    packed.sort()
    ordered = packed >> _ENTRY_BITS
    first = np.empty(len(keys), bool)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    candidate = np.empty(len(keys), np.int64)
    candidate[packed & ((1 << _ENTRY_BITS) - 1)] = np.cumsum(first) - 1
    return candidate, ordered[first]


def _covisits(
    out: np.ndarray,
    entry: np.ndarray,
    weights: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    of_last: np.ndarray,
) -> None:
    size = len(out)
    for kind, column in ((0, 3), (1, 5)):
        total = np.bincount(entry, weights=weights[:, kind], minlength=size)
        best = np.maximum.reduceat(total, starts[:-1])
        out[:, column] = np.log1p(10.0 * total)
        out[:, column + 1] = total / np.maximum(best, 1e-9)[rows]
    out[:, 7] = 0.0
    out[entry[of_last], 7] = np.log1p(10.0 * weights[of_last, 1])  # a pair occurs once
    out[:, 8] = np.bincount(entry, weights=weights[:, 2], minlength=size)
