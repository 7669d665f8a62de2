"""Seeded shoppers on the items of the starter bundle: valid events with known outcomes."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from models.bundle import Bundle
from models.loading import load_bundle
from models.recommender import Recommender, Settings
from tests.canaries import USER
from tests.kafka import Record
from udfs.events import INTERACTIONS, InvalidEventError, decode, to_text
from udfs.recommend import Answer, Answering, Rules, Tally

STARTER = Path(__file__).resolve().parent.parent / "models" / "starter" / "online-retail"
START_MS = 1_322_728_000_000
TYPES = (*INTERACTIONS, "search", "remove_from_cart", "view_item_list", "session_end")
WINDOW, GAP_MS, KEPT_MS = 20, 1_800_000, 86_400_000


@dataclass(frozen=True)
class Swap:
    """Another bundle, and the event time from which it answers."""

    bundle: Bundle
    active_from: int


def starter() -> Bundle:
    """The bundle that the project ships."""
    return load_bundle(STARTER)


def shopping(
    seed: int, users: int, events: int, items: list[str], start_ms: int = START_MS
) -> list[Record]:
    """Events of `users` shoppers: gaps, repeats, unknown items, several items, disorder."""
    draw = random.Random(seed)
    clock = dict.fromkeys(range(users), start_ms)
    sent: list[Record] = []
    for number in range(events):
        user = draw.randrange(users)
        clock[user] += round(draw.expovariate(1 / 60_000)) + (draw.random() < 0.03) * 4_000_000
        lag = 90_000 if draw.random() < 0.05 else 0  # arrives out of order
        pool = items if draw.random() < 0.9 else ["new-1", "new-2", "ünbekannt"]
        event = {
            "event_id": f"e-{seed}-{number}",
            "event_type": draw.choices(TYPES, [9, 9, 6, 2, 2, 1, 1, 1, 1])[0],
            "event_time": clock[user] - lag,
            "user_id": f"{USER}-{user}",
            "items": [
                {"item_id": draw.choice(pool), "price": draw.randrange(1, 900) / 100}
                for _ in range(draw.choice([1, 1, 1, 3]))
            ],
        }
        record = Record(json.dumps(event).encode(), f"{USER}-{user}".encode(), [("trace", b"t")])
        sent.append(record)
        if draw.random() < 0.03:
            sent.append(record)  # a producer's retry: the same event_id again
    return sent


def expected(
    bundle: Bundle, records: list[Record], received_ms: int, after: Swap | None = None
) -> dict[str, dict]:
    """What the engine-free function answers to the records in order: by recommendation_id."""
    answers = (answer for answer, _ in _answered(bundle, records, received_ms, after))
    return {a.recommendation_id: decision(a.value) for a in answers if a is not None}


def outcomes(bundle: Bundle, records: list[Record], received_ms: int) -> dict[str, int]:
    """What the counters of a job that read the records must show."""
    counts = Counter(consumed=len(records))
    for _, tally in _answered(bundle, records, received_ms):
        counts.update(asdict(tally))
    return {**counts, "dead_letters": 2 * len(records) - counts.total()}


def _answered(
    bundle: Bundle, records: list[Record], received_ms: int, after: Swap | None = None
) -> Iterator[tuple[Answer | None, Tally]]:
    """The engine-free function's answer to each record that is an event."""
    first = Recommender(bundle, Settings())
    then = Recommender(after.bundle, Settings()) if after else first
    active_from = after.active_from if after else 0
    answering = Answering(
        lambda event_time: then if event_time >= active_from else first,
        Rules((*INTERACTIONS, "search"), GAP_MS, KEPT_MS),
    )
    texts: dict[str, list[str]] = defaultdict(list)
    for record in records:
        try:
            user, event = decode(record.value, received_ms)
        except InvalidEventError:
            continue
        texts[user].append(to_text(event))
        (answer,), tally = answering.answer([user], [",".join(texts[user][-WINDOW:])])
        yield answer, tally


def decision(value: bytes | str) -> dict:
    """A recommendation message without what may differ between two runs: its stamps."""
    message = json.loads(value)
    del message["generated_at"], message["took_us"]
    return message
