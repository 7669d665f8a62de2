"""Windows in, recommendation messages out: arrays over a batch, no engine.

window ─ duplicate? ─ triggering? ─ current session ─ features ─ Recommender ─ JSON
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec

from models.recommender import RankedList, Recommender
from udfs.events import TYPE_CODES, Event, rfc3339, window_from_text, without_repeats
from udfs.session_features import SessionBatch, current_session, session_features

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Rules:
    """Which events are answered, where a session ends, and how far back anything counts."""

    triggers: Collection[str]  # names of event types
    gap_ms: int
    kept_ms: int


@dataclass(slots=True)
class Tally:
    """How many windows a call answered, found not triggering, or found to be duplicates."""

    answered: int = 0
    not_triggering: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class _Due:
    """A window that is answered: its place in the call, its newest event, its session."""

    row: int
    trigger: Event
    session: list[Event]


class Answer(msgspec.Struct, gc=False):
    """One recommendation message with what its headers need."""

    recommendation_id: str
    event_time: str  # RFC 3339, UTC
    value: str  # the JSON


class RecommendedItem(msgspec.Struct, gc=False):
    item_id: str
    position: int
    score: float
    source: str
    reasons: tuple[str, ...]
    propensity: float = 1.0  # the choice is deterministic


class Recommendation(msgspec.Struct, gc=False, omit_defaults=True, kw_only=True):
    """The message on `recommendations`; the fields of the published schema, in its order."""

    schema_version: int
    recommendation_id: str
    trigger_event_id: str
    user_id: str
    session_id: str | None = None
    list_id: str | None = None
    event_time: int
    generated_at: int
    items: list[RecommendedItem]
    bundle_version: str
    served_by: str
    took_us: dict[str, int]


_encode = msgspec.json.Encoder().encode


class Answering:
    """Answers windows by the given rules; the same in both profiles.

    `recommender_at` gives the recommender for an event of a time, in epoch milliseconds.
    """

    def __init__(self, recommender_at: Callable[[int], Recommender], rules: Rules) -> None:
        self.recommender_at = recommender_at
        self.gap_ms = rules.gap_ms
        self.kept_ms = rules.kept_ms
        self.triggers = frozenset(TYPE_CODES[name] for name in rules.triggers)

    def answer(
        self, users: Sequence[str], windows: Sequence[str]
    ) -> tuple[list[Answer | None], Tally]:
        """Answer each window's newest event: None where it is no trigger or a duplicate.

        `windows` hold the user's last events in order of arrival, as `window_from_text` reads.
        """
        started = time.perf_counter_ns()
        tally = Tally()
        due: dict[Recommender, list[_Due]] = {}
        for row, text in enumerate(windows):
            window = self._kept(window_from_text(text))
            if self._is_due(window, tally):
                session = current_session(without_repeats(window), self.gap_ms)
                chosen = self.recommender_at(window[-1].time)
                due.setdefault(chosen, []).append(_Due(row, window[-1], session))
        answers: list[Answer | None] = [None] * len(windows)
        for recommender, together in due.items():  # one, but where a new bundle begins to act
            self._answer_due(recommender, together, users, started, answers)
            started = time.perf_counter_ns()
        return answers, tally

    def _answer_due(
        self,
        recommender: Recommender,
        due: list[_Due],
        users: Sequence[str],
        started: int,
        answers: list[Answer | None],
    ) -> None:
        batch = SessionBatch.from_events([each.session for each in due])
        features = session_features(batch)
        features_us = (time.perf_counter_ns() - started) // (1000 * len(due))
        lists = recommender.recommend(batch, features)
        took_us = {"features": features_us, **recommender.took_us}
        now = time.time_ns() // 1_000_000  # a stamp on the message; no decision reads it
        version = recommender.bundle_version
        for each, ranked in zip(due, lists, strict=True):
            answers[each.row] = _message(
                users[each.row], each.trigger, ranked, version, took_us, now
            )

    def _kept(self, window: list[Event]) -> list[Event]:
        """The events that still count: how long state outlives them must change no answer."""
        since = window[-1].time - self.kept_ms
        return [event for event in window if event.time >= since]

    def _is_due(self, window: list[Event], tally: Tally) -> bool:
        trigger = window[-1]
        if any(event.event_id == trigger.event_id for event in window[:-1]):
            tally.duplicates += 1
        elif trigger.type not in self.triggers:
            tally.not_triggering += 1
        else:
            tally.answered += 1
            return True
        return False


def _message(
    user_id: str,
    trigger: Event,
    ranked: RankedList,
    version: str,
    took_us: dict[str, int],
    now: int,
) -> Answer:
    identity = recommendation_id(user_id, trigger.event_id, version)
    columns = (ranked.item_ids, range(len(ranked.item_ids)), ranked.scores)
    told = (ranked.sources, ranked.reasons)
    message = Recommendation(
        schema_version=SCHEMA_VERSION,
        recommendation_id=identity,
        trigger_event_id=trigger.event_id,
        user_id=user_id,
        event_time=trigger.time,
        generated_at=now,
        items=list(map(RecommendedItem, *columns, *told)),
        bundle_version=version,
        served_by=ranked.served_by,
        took_us=took_us,
        session_id=trigger.session_id,
        list_id=trigger.list_id,
    )
    return Answer(identity, rfc3339(trigger.time), _encode(message).decode())


def recommendation_id(user_id: str, event_id: str, bundle_version: str) -> str:
    """32 hex digits; the same trigger and bundle always give the same id."""
    text = f"{user_id}\0{event_id}\0{bundle_version}".encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()
