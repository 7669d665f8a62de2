"""How the demo judges the lists: latency, hits, and whether every record is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from jobs.demo.stream import LIST_SIZE, Record
from operators.accounting import OUTCOMES, accounted


@dataclass(frozen=True, slots=True)
class Shown:
    """One list as it came back: parallel columns, best first."""

    record: Record
    items: list[str]
    reasons: list[str]
    latency_ms: float


@dataclass
class Score:
    """Grows with every list that comes back; times are seconds of one monotonic clock."""

    records: Mapping[str, Record]  # by event_id
    latencies_ms: list[float] = field(default_factory=list)
    judged: int = 0  # lists with a next item that the shopper really added
    hits: int = 0
    popular_hits: int = 0
    other_shop: int = 0  # lists for the other shop, whose items the bundle does not know
    served_by: Counter[str] = field(default_factory=Counter)
    lists: int = 0  # for distinct events
    repeated: int = 0  # lists for an event that had one already, as after a recovery
    _answered: set[str] = field(default_factory=set)

    def add(
        self, event_id: str, items: list[str], reasons: list[str], served_by: str, took_s: float
    ) -> Shown | None:
        """Count one list; None where it answers none of the measured events, or not first."""
        if event_id in self._answered:
            self.repeated += 1
            return None
        record = self.records.get(event_id)
        if record is None or record.visit is None:
            return None
        self._answered.add(event_id)
        self.lists += 1
        self.latencies_ms.append(took_s * 1000)
        self.served_by[served_by] += 1
        self.other_shop += not record.visit.known
        if record.next_item is not None:
            self.judged += 1
            self.hits += record.next_item in items[:LIST_SIZE]
            self.popular_hits += record.popular
        return Shown(record, items, reasons, took_s * 1000)

    @property
    def hit_rate(self) -> float:
        """Share of judged lists that held the next item."""
        return self.hits / self.judged if self.judged else 0.0

    @property
    def hit_rate_popularity(self) -> float:
        """The same for the most popular items not in the session, on the same events."""
        return self.popular_hits / self.judged if self.judged else 0.0

    def percentile(self, percent: float) -> float:
        """Latency in ms that `percent` of the lists stayed within; 0 before the first."""
        values = self.latencies_ms[:]  # another thread may append meanwhile
        return float(np.percentile(values, percent)) if values else 0.0


def misfits(
    sent: Mapping[str, int], counters: Mapping[str, int], topics: Mapping[str, int]
) -> list[str]:
    """Every way in which the books do not balance, as sentences; none if they do.

    `sent` is what each outcome should count, `counters` what the job counted, `topics` how many
    records user-events, recommendations and dead-letters hold.
    """
    counted = {name: counters.get(name, 0) for name in ("consumed", *OUTCOMES)}
    pairs: list[tuple[str, int, str, int]] = [
        ("consumed", counted["consumed"], "the sum of the outcomes", accounted(counted)),
        ("consumed", counted["consumed"], "records on user-events", topics["user-events"]),
        ("answered", counted["answered"], "lists on recommendations", topics["recommendations"]),
        ("dead letters", counted["dead_letters"], "on dead-letters", topics["dead-letters"]),
    ]
    for name in OUTCOMES:
        pairs.append((name.replace("_", " "), counted[name], "expected of those sent", sent[name]))
    return [f"{a}: {x:,}, but {b}: {y:,}" for a, x, b, y in pairs if x != y]


def identity(counters: Mapping[str, int]) -> str:
    """The accounting identity with its numbers."""
    parts = [f"{counters.get(name, 0):,} {name.replace('_', ' ')}" for name in OUTCOMES]
    return f"{counters.get('consumed', 0):,} consumed = {' + '.join(parts)}"


def missing_values(sent: Iterable[bytes | None], found: Iterable[bytes | None]) -> int:
    """How many of the malformed values are not among the dead letters byte for byte."""
    return sum((Counter(sent) - Counter(found)).values())
