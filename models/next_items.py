"""What users turned to after an event: what a list for that event should have held.

    events ─ sessions (by the rule of the job) ─ for each event: its next items, and all later ones

Items that are in the session already do not count unless `repeats` is set: a list leaves them
out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from udfs.events import INTERACTION_CODES, Event
from udfs.session_features import split_sessions

Key = tuple[str, str]  # user_id, event_id


@dataclass(frozen=True, slots=True)
class Future:
    """What came after an event in its session."""

    session: int
    items: int  # distinct ones in the session, up to the event
    next: frozenset[str]  # of the first later event with items that count; empty if there is none
    later: int  # how many items came later
    _place: int
    _occurs: Mapping[str, int]  # item → the first event with it; the last one where repeats count

    def holds(self, item: str) -> bool:
        """Whether the item came later."""
        return self._occurs.get(item, -1) > self._place


def futures(
    events: Iterable[tuple[str, Event]], gap_ms: int, repeats: bool = False
) -> dict[Key, Future]:
    """The future of each event, from (user, event) in order of arrival; of repeats the first."""
    users: dict[str, dict[str, Event]] = {}
    for user, event in events:
        users.setdefault(user, {}).setdefault(event.event_id, event)
    found: dict[Key, Future] = {}
    number = 0
    for user, by_id in users.items():
        for session in split_sessions([*by_id.values()], gap_ms):
            for event, future in zip(session, _of_session(session, number, repeats), strict=True):
                found[user, event.event_id] = future
            number += 1
    return found


def _of_session(session: list[Event], number: int, repeats: bool) -> Iterable[Future]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    at: dict[int, set[str]] = {}  # event → items that count there
    for place, event in enumerate(session):
        if event.type in INTERACTION_CODES:
            for item in event.items:
                if repeats or item.item_id not in first:
                    at.setdefault(place, set()).add(item.item_id)
                first.setdefault(item.item_id, place)
                last[item.item_id] = place
    occurs = last if repeats else first
    begun, counted = sorted(first.values()), sorted(occurs.values())
    places = [*at]
    coming = [frozenset(items) for items in at.values()]
    for place in range(len(session)):
        after = bisect_right(places, place)
        yield Future(
            number,
            bisect_right(begun, place),
            coming[after] if after < len(coming) else frozenset(),
            len(counted) - bisect_right(counted, place),
            place,
            occurs,
        )
