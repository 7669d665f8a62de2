"""What the demo sends: real baskets and sessions as records, in an order fixed beforehand.

Online Retail, December 2011 ─ visits ─┐
OTTO sample ────────────────── visits ─┴─ lanes ─ steps ─ records (+ re-sent, + malformed)

Nothing is drawn at random: the same files and length always give the same records.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from jobs.demo.malformed import malformed
from jobs.demo.visits import Step, Visit
from operators.accounting import OUTCOMES, Outcome

LANES = 60  # baskets that are filled at the same time
OTTO_LANES = 4
RESEND_EVERY = 199  # records; a producer that was not told of success sends once more
RESEND_AFTER = 3  # records later
LIST_SIZE = 20

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record to be sent, and what is expected to become of it."""

    key: bytes | None
    value: bytes | None
    outcome: Outcome
    event_id: str = ""
    visit: Visit | None = None
    step: Step | None = None
    next_item: str | None = None  # the item the shopper adds next, not yet in the session
    popular: bool = False  # whether that is among the most popular ones


def interleave(visits: Sequence[Visit], lanes: int) -> Iterator[list[tuple[int, int]]]:
    """Rounds of (visit, step): each lane does the next step of its visit, or begins another.

    Visits begin in their given order; a shopper is never in two lanes, so the order of each
    user's events is the original one.
    """
    waiting = deque(range(len(visits)))
    lane: list[tuple[int, int] | None] = [None] * lanes
    while True:
        done = []
        for number, at in enumerate(lane):
            if at is None:
                busy = {visits[place[0]].user for place in lane if place}
                chosen = next((v for v in waiting if visits[v].user not in busy), None)
                if chosen is None:
                    continue
                waiting.remove(chosen)
                at = (chosen, 0)
            done.append(at)
            visit, step = at
            lane[number] = (visit, step + 1) if step + 1 < len(visits[visit].steps) else None
        if not done:
            return
        yield done


def plan(
    retail: Sequence[Visit], otto: Sequence[Visit], popular: Sequence[str], size: int
) -> list[Record]:
    """The first `size` records of the demo; fewer where the data ends before."""
    bad = malformed()
    repeats = size // RESEND_EVERY
    visits = [*retail, *otto]
    steps = _steps(retail, otto, max(size - len(bad) - repeats, 0))
    taken = Counter(visit for visit, _ in steps)
    following = {
        number: next_new_items([step.item for step in visits[number].steps[:count]])
        for number, count in taken.items()
        if visits[number].known
    }
    records = [
        record_of(visits[visit], step, following.get(visit, ()), popular) for visit, step in steps
    ]
    return with_malformed(with_repeats(records), bad)


def _steps(retail: Sequence[Visit], otto: Sequence[Visit], size: int) -> list[tuple[int, int]]:
    nothing: list[tuple[int, int]] = []
    rounds = itertools.zip_longest(
        interleave(retail, LANES), interleave(otto, OTTO_LANES), fillvalue=nothing
    )
    every = (
        step
        for shop, other in rounds
        for step in [*shop, *((visit + len(retail), at) for visit, at in other)]
    )
    return list(itertools.islice(every, size))


def record_of(
    visit: Visit,
    number: int,
    following: Sequence[str | None] = (),
    popular: Sequence[str] = (),
) -> Record:
    """The record of one step; judged where `following` tells which item is added next."""
    step = visit.steps[number]
    judged = following[number] if following and step.verb == "added" else None
    seen = {earlier.item for earlier in visit.steps[: number + 1]}
    return Record(
        key=visit.user.encode(),
        value=_encode(step.event),
        outcome="answered" if step.triggers else "not_triggering",
        event_id=step.event.get("event_id") or step.event["messageId"],
        visit=visit,
        step=step,
        next_item=judged,
        popular=judged is not None and judged in most_popular(popular, seen),
    )


def next_new_items(items: Sequence[str]) -> list[str | None]:
    """After each item: the first later one that was not in the session yet; "" is no item."""
    first = {item: at for at, item in reversed(list(enumerate(items))) if item}
    found: list[str | None] = [None] * len(items)
    coming: str | None = None
    for at in range(len(items) - 1, -1, -1):
        found[at] = coming
        if first.get(items[at]) == at:
            coming = items[at]
    return found


def most_popular(popular: Sequence[str], seen: set[str]) -> list[str]:
    """The first 20 of `popular` that are not in the session: the list everybody would get."""
    return list(itertools.islice((item for item in popular if item not in seen), LIST_SIZE))


def with_repeats(records: Sequence[Record]) -> list[Record]:
    """Send an answered record again from time to time, a few records later."""
    out: list[Record] = []
    due: deque[tuple[int, Record]] = deque()
    for number, record in enumerate(records):
        out.append(record)
        if number % RESEND_EVERY == RESEND_EVERY // 2 and record.outcome == "answered":
            due.append((number + RESEND_AFTER, record))
        while due and due[0][0] <= number:
            again = due.popleft()[1]
            out.append(replace(again, outcome="duplicates", next_item=None, popular=False))
    return out


def with_malformed(records: Sequence[Record], bad: Sequence[bytes | None]) -> list[Record]:
    """Mix the malformed values in, evenly spread."""
    out = list(records)
    for number, value in enumerate(bad):
        at = (2 * number + 1) * len(records) // (2 * len(bad)) + number
        out.insert(at, Record(b"somebody", value, "dead_letters"))
    return out


def expected(records: Iterable[Record]) -> dict[str, int]:
    """How many records are expected to meet each outcome."""
    counts = Counter(record.outcome for record in records)
    return {name: counts[name] for name in OUTCOMES}
