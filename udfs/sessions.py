"""The events between two gaps in, closed sessions out: one message each, no engine."""

from __future__ import annotations

from typing import Literal

import msgspec

from udfs.events import (
    EVENT_TYPES,
    TYPE_CODES,
    Event,
    rfc3339,
    window_from_text,
    without_repeats,
)
from udfs.session_features import FEATURES, SessionBatch, session_features, split_sessions

_END = TYPE_CODES["session_end"]


class SessionEvent(msgspec.Struct, gc=False):
    """One (event, item) of a session; `item_id` is None where the event had no item."""

    item_id: str | None
    event_type: str
    event_time: int


class Session(msgspec.Struct, gc=False):
    """The message on `sessions`, in the order of the published schema."""

    schema_version: int
    session_id: str
    user_id: str
    started_at: int
    ended_at: int
    closed_by: Literal["gap", "event"]
    events: list[SessionEvent]
    features: dict[str, float]


class ClosedSession(msgspec.Struct, gc=False):
    """One message with what its headers need."""

    session_id: str
    event_time: str  # RFC 3339, of the session's end
    value: str  # the JSON


_encode = msgspec.json.Encoder().encode


def close_sessions(user_id: str, events: str, gap_ms: int) -> list[ClosedSession]:
    """The sessions among a user's events between two gaps, oldest first.

    A session that holds nothing but its `session_end` is none.
    """
    sessions = [
        session
        for session in split_sessions(without_repeats(window_from_text(events)), gap_ms)
        if any(event.type != _END for event in session)
    ]
    rows = session_features(SessionBatch.from_events(sessions))
    return [
        _closed(user_id, session, row) for session, row in zip(sessions, rows.tolist(), strict=True)
    ]


def _closed(user_id: str, session: list[Event], row: list[float]) -> ClosedSession:
    started, ended = session[0].time, session[-1].time
    given = next((event.session_id for event in session if event.session_id), None)
    message = Session(
        schema_version=1,
        session_id=given or f"{user_id}:{started}",
        user_id=user_id,
        started_at=started,
        ended_at=ended,
        closed_by="event" if session[-1].type == _END else "gap",
        events=[row for event in session for row in _rows(event)],
        features=dict(zip(FEATURES, row, strict=True)),
    )
    return ClosedSession(message.session_id, rfc3339(ended), _encode(message).decode())


def _rows(event: Event) -> list[SessionEvent]:
    items: list[str | None] = [item.item_id for item in event.items]
    return [SessionEvent(item, EVENT_TYPES[event.type], event.time) for item in items or [None]]
