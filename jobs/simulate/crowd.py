"""Many shoppers at once, by turns: what `jobs/simulate` sends, without Kafka.

Population ─ visits ─ lanes ─ turn ─► events
                                ▲
                    offers ─────┘  a list is seen if it is there when the shopper's turn comes
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from jobs.simulate.population import Drift, Exposure, Offer, Population, ShopperEvent, Visit
from jobs.simulate.tastes import Tastes


@dataclass(frozen=True, slots=True)
class Clock:
    """Event time runs evenly with the number of events."""

    start_ms: int  # epoch ms of event 0
    step_ms: float  # from one event to the next

    def at(self, number: int) -> int:
        """The time of an event, in epoch ms."""
        return self.start_ms + int(number * self.step_ms)


class Crowd:
    """`at_once` visits side by side, each with one event a round; who leaves is replaced."""

    def __init__(self, population: Population, clock: Clock, at_once: int, run: int = 0) -> None:
        if not 1 <= at_once <= population.users:
            raise ValueError(
                f"expected at least as many users as are there at once; got {population.users} "
                f"users, {at_once} at once"
            )
        self.population, self.clock, self.run = population, clock, run
        self.visits = 0
        self.sent = 0
        self.events: Counter[str] = Counter()  # by event type
        self.lists_received = self.lists_missed = 0
        self.exposures: dict[tuple[str, bool], Exposure] = {}  # bundle version, after the drift
        self._arrivals = 0
        self._lanes: deque[Visit | None] = deque([None] * at_once)
        self._here: dict[str, Visit] = {}  # by user_id
        self._offers: dict[str, Offer] = {}

    def drift(self, tastes: Tastes) -> None:
        """Give these tastes to every visit that begins from now on."""
        now = Drift(self.clock.at(self.sent), tastes)
        self.population = replace(self.population, drift=now)

    def offer(self, offer: Offer) -> None:
        """Hand a list to its shopper, who sees it at the next turn unless gone on by then."""
        self.lists_received += 1
        visit = self._here.get(offer.user_id)
        if visit is not None and visit.answers(offer):
            self._offers[offer.user_id] = offer
        else:
            self.lists_missed += 1

    def turn(self) -> ShopperEvent:
        """The next event; whoever's turn it is sees the list that came, else browses on."""
        time_ms = self.clock.at(self.sent)
        visit = self._lanes.popleft()
        event = None if visit is None else self._act(visit, time_ms)
        if event is None:
            visit = self._arrive(visit, time_ms)
            event = visit.next(time_ms)
        assert event is not None, "a visit begins with an event"
        self._lanes.append(visit)
        return self._counted(event)

    def finish(self) -> Iterator[ShopperEvent]:
        """What shoppers have decided and not yet done, so that every click counted is sent."""
        for visit in self._here.values():
            while visit.busy:
                event = visit.next(self.clock.at(self.sent))
                assert event is not None
                yield self._counted(event)

    def _counted(self, event: ShopperEvent) -> ShopperEvent:
        self.sent += 1
        self.events[event.event_type] += 1
        return event

    def _act(self, visit: Visit, time_ms: int) -> ShopperEvent | None:
        offer = self._offers.pop(visit.user_id, None)
        if offer is not None:
            seen = self.exposures.setdefault((offer.bundle_version, visit.drifted), Exposure())
            seen.add(visit.see(offer))
        return visit.next(time_ms)

    def _arrive(self, gone: Visit | None, time_ms: int) -> Visit:
        """Whoever comes next: the shoppers in turn, but nobody who is still here."""
        if gone is not None:
            del self._here[gone.user_id]
        while True:
            number, user = divmod(self._arrivals, self.population.users)
            self._arrivals += 1
            visit = self.population.visit(user, number, time_ms, self.run)
            if visit.user_id not in self._here:
                self._here[visit.user_id] = visit
                self.visits += 1
                return visit
