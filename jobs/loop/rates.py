"""Click-through over time: which bundle's lists were clicked how often, interval by interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.simulate.population import Exposure

STEP_S = 4.0
FEW = 20  # lists, below which an interval says nothing


@dataclass(frozen=True, slots=True)
class Rate:
    """CTR of the lists that were seen in one interval."""

    at_s: float  # its end
    version: str  # whose lists most of them were
    lists: int
    ctr: float


class Rates:
    """Grows by one rate every STEP_S seconds, from counts that only grow."""

    def __init__(self) -> None:
        self.rates: list[Rate] = []
        self._due = 0.0
        self._before: dict[tuple[str, bool], tuple[int, int, int]] = {}

    def look(self, seconds: float, exposures: Mapping[tuple[str, bool], Exposure]) -> None:
        """Take the counts at a time; nothing happens until the interval is over."""
        if seconds < self._due:
            return
        self._due = seconds + STEP_S
        now = {key: (x.lists, x.impressions, x.clicks) for key, x in dict(exposures).items()}
        lists: Counter[str] = Counter()
        impressions = clicks = 0
        for key, counts in now.items():
            before = self._before.get(key, (0, 0, 0))
            lists[key[0]] += counts[0] - before[0]
            impressions += counts[1] - before[1]
            clicks += counts[2] - before[2]
        self._before = now
        if lists.total() >= FEW:
            version = lists.most_common(1)[0][0]
            self.rates.append(Rate(seconds, version, lists.total(), clicks / max(impressions, 1)))
