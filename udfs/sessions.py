"""A user's events in, closed sessions out: one message each, no engine.

A stretch is what lies between two silences longer than the gap. Whatever a session_end closes
soon after its stretch began is closed at once; the rest of a stretch once the silence is there.
Which of the two it is follows from the events alone, so each session is closed exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Closing:
    """When sessions close: times in ms of event time."""

    gap_ms: int  # silence that ends a session
    at_once_ms: int  # of its stretch, within which a session_end closes at once

    @property
    def lookback_ms(self) -> int:
        """How far back from a session_end its stretch is seen whole, if it is to close at once.

        A longer stretch has an event in the last `gap_ms` of it and so is seen to be longer.
        """
        return self.at_once_ms + self.gap_ms

    def by_silence(self, user_id: str, events: str) -> list[ClosedSession]:
        """The sessions of whole stretches, in time order, but those that `by_end` closes."""
        return _messages(user_id, [s for s, at_once in self._sessions(events) if not at_once])

    def by_end(self, user_id: str, events: str, end: str) -> list[ClosedSession]:
        """The session that the session_end `end` closes at once, if it does.

        `events` are those of the last `lookback_ms` up to the time of `end`.
        """
        (last,) = window_from_text(end)
        found = [s for s, at_once in self._sessions(events) if at_once and s[-1] == last]
        return _messages(user_id, found)

    def _sessions(self, events: str) -> Iterator[tuple[list[Event], bool]]:
        """The sessions, each with whether it closes at once; a lone session_end is none."""
        for stretch in self._stretches(window_from_text(events)):
            # The first of repeats in time order: what comes later changes nothing before it.
            for session in split_sessions(without_repeats(stretch), self.gap_ms):
                last, passed = session[-1], session[-1].time - stretch[0].time
                if any(event.type != _END for event in session):
                    yield session, last.type == _END and passed <= self.at_once_ms

    def _stretches(self, events: list[Event]) -> list[list[Event]]:
        stretches: list[list[Event]] = []
        for event in sorted(events, key=lambda event: event.time):
            if not stretches or event.time - stretches[-1][-1].time > self.gap_ms:
                stretches.append([])
            stretches[-1].append(event)
        return stretches


def _messages(user_id: str, sessions: list[list[Event]]) -> list[ClosedSession]:
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
