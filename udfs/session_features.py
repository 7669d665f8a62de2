"""The features of a session: one function for serving, for closed sessions and for training.

events of a user ─ split_sessions ─ sessions ─ SessionBatch ─ session_features ─ [B, F]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit

from udfs.events import INTERACTION_CODES, TYPE_CODES, Event

SCHEMA_VERSION = 1
FEATURES = (
    "interactions",  # rows of (event, item)
    "distinct_items",
    "repeat_share",  # share of rows whose item occurred before in the session
    "duration_s",  # first to last interaction
    "last_gap_s",  # between the last two interactions
    "mean_gap_s",
    "views",  # select_item or view_item
    "carts",
    "wishlists",
    "purchases",
    "priced_share",  # share of rows with a known price
    "mean_price",  # over rows with a known price, 0 where none is known
    "last_price",  # 0 where not known
    "hour_of_day",  # of the last interaction, UTC, 0..24
    "day_of_week",  # of the last interaction, UTC, 0 = Monday
)
"""Names of the columns of `session_features`, in order; part of a bundle's feature schema."""

_END = TYPE_CODES["session_end"]
_SELECT, _VIEW, _CART, _WISH, _PURCHASE = (
    TYPE_CODES[name]
    for name in ("select_item", "view_item", "add_to_cart", "add_to_wishlist", "purchase")
)
_DAY_MS = 86_400_000


def split_sessions(events: Sequence[Event], gap_ms: int) -> list[list[Event]]:
    """Cut a user's events, in any order, into sessions in event-time order.

    A session ends with a `session_end`, before a silence longer than `gap_ms`, or where the
    given session_id changes. Events of one time keep their order of arrival.
    """
    sessions: list[list[Event]] = []
    previous: Event | None = None
    for event in sorted(events, key=lambda event: event.time):
        if previous is None or _is_cut(previous, event, gap_ms):
            sessions.append([])
        sessions[-1].append(event)
        previous = event
    return sessions


def current_session(window: Sequence[Event], gap_ms: int) -> list[Event]:
    """The session that the newest arrival, `window[-1]`, belongs to, in event-time order."""
    trigger = window[-1]
    for session in split_sessions(window, gap_ms):
        if any(event is trigger for event in session):
            return session
    raise AssertionError("every event is in a session")


def _is_cut(previous: Event, event: Event, gap_ms: int) -> bool:
    return (
        previous.type == _END
        or event.time - previous.time > gap_ms
        or (
            previous.session_id != event.session_id
            and previous.session_id is not None
            and event.session_id is not None
        )
    )


@dataclass(frozen=True, slots=True)
class SessionBatch:
    """B sessions as parallel columns; session b owns rows offsets[b]:offsets[b+1], oldest first.

    One row is one (event, item) of an interaction; a session may own no row at all.
    """

    offsets: np.ndarray  # int64 [B + 1]
    items: list[str]  # [N] item ids
    types: np.ndarray  # int8 [N], index into EVENT_TYPES
    times: np.ndarray  # int64 [N], epoch ms
    prices: np.ndarray  # float64 [N], NaN where not known

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_events(cls, sessions: Sequence[Sequence[Event]]) -> SessionBatch:
        """Take the interactions of each session; `events` must be in event-time order."""
        offsets = [0]
        items: list[str] = []
        types: list[int] = []
        times: list[int] = []
        prices: list[float] = []
        for session in sessions:
            for event in session:
                if event.type in INTERACTION_CODES:
                    for item in event.items:
                        items.append(item.item_id)
                        types.append(event.type)
                        times.append(event.time)
                        prices.append(np.nan if item.price is None else item.price)
            offsets.append(len(items))
        return cls(
            np.asarray(offsets, np.int64),
            items,
            np.asarray(types, np.int8),
            np.asarray(times, np.int64),
            np.asarray(prices, np.float64),
        )


def session_features(batch: SessionBatch) -> np.ndarray:
    """Features of each session: float32 [B, len(FEATURES)]; zeros for a session without rows.

    Sums run in row order within a session, so a session's values do not depend on its batch.
    """
    distinct = [len(set(batch.items[low:high])) for low, high in pairwise(batch.offsets.tolist())]
    columns = (batch.offsets, batch.types, batch.times, batch.prices)
    return _features(*columns, np.asarray(distinct, np.int64), len(FEATURES))


@njit(cache=True, nogil=True)
def _features(
    offsets: np.ndarray,
    types: np.ndarray,
    times: np.ndarray,
    prices: np.ndarray,
    distinct: np.ndarray,
    width: int,
) -> np.ndarray:
    out = np.zeros((len(distinct), width), np.float32)
    for b in range(len(distinct)):
        first, end = offsets[b], offsets[b + 1]
        rows = end - first
        if rows == 0:
            continue
        views, carts, wishes, purchases, priced, spent = 0, 0, 0, 0, 0, 0.0
        for row in range(first, end):
            views += types[row] == _SELECT or types[row] == _VIEW
            carts += types[row] == _CART
            wishes += types[row] == _WISH
            purchases += types[row] == _PURCHASE
            if not math.isnan(prices[row]):
                priced += 1
                spent += prices[row]
        last = end - 1
        duration = (times[last] - times[first]) / 1000.0
        out[b, 0] = rows
        out[b, 1] = distinct[b]
        out[b, 2] = (rows - distinct[b]) / rows
        out[b, 3] = duration
        out[b, 4] = (times[last] - times[last - 1]) / 1000.0 if rows > 1 else 0.0
        out[b, 5] = duration / max(rows - 1, 1)
        out[b, 6], out[b, 7], out[b, 8], out[b, 9] = views, carts, wishes, purchases
        out[b, 10] = priced / rows
        out[b, 11] = spent / max(priced, 1)
        out[b, 12] = 0.0 if math.isnan(prices[last]) else prices[last]
        out[b, 13] = times[last] % _DAY_MS / 3_600_000.0
        out[b, 14] = (times[last] // _DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
    return out
