"""Shoppers by turns: nothing they do hangs on who else is there, and the books balance."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest

from jobs.simulate.crowd import Clock, Crowd
from jobs.simulate.population import Drift, Offer, OfferedItem, Population, ShopperEvent
from jobs.simulate.tastes import Tastes, synthetic_tastes

CLOCK = Clock(1_735_689_600_000, 250.0)
ANSWERED = ("view_item", "select_item", "add_to_cart", "purchase")


@pytest.fixture(scope="module")
def shop() -> Tastes:
    return synthetic_tastes(items=300, clusters=6, seed=1)


def answer(shop: Tastes, event: ShopperEvent, version: str = "v1") -> Offer:
    """What a fair model would offer after the event; the same for the same event."""
    near = shop.following(event.items[0].item_id)
    items = [OfferedItem(item, position) for position, item in enumerate(near)]
    return Offer(f"{version}:{event.event_id}", event.event_id, event.user_id, items, version)


def served(crowd: Crowd, shop: Tastes, turns: int) -> list[ShopperEvent]:
    """Events of a crowd whose every event is answered at once."""
    events = []
    for _ in range(turns):
        event = crowd.turn()
        events.append(event)
        if event.event_type in ANSWERED:
            crowd.offer(answer(shop, event))
    return [*events, *crowd.finish()]


def by_session(events: list[ShopperEvent]) -> dict[str, list[tuple[str, list[str]]]]:
    found = defaultdict(list)
    for event in events:
        items = [item.item_id for item in event.items]
        found[event.session_id].append((event.event_type, items))
    return found


def test_one_seed_gives_the_same_events_to_the_byte(shop: Tastes) -> None:
    runs = [
        msgspec.json.encode(served(Crowd(Population(shop, 500, seed), CLOCK, 20), shop, 3000))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_what_a_shopper_does_does_not_hang_on_who_else_is_there(shop: Tastes) -> None:
    few, many = (
        by_session(served(Crowd(Population(shop, 300), CLOCK, at_once), shop, 4000))
        for at_once in (3, 90)
    )
    shared = few.keys() & many.keys()
    assert len(shared) > 50
    for session in shared:  # visits at the end are cut off
        length = min(len(few[session]), len(many[session]))
        assert few[session][:length] == many[session][:length]


def test_time_runs_evenly(shop: Tastes) -> None:
    crowd = Crowd(Population(shop, 100), CLOCK, 10)
    times = [crowd.turn().event_time for _ in range(1000)]
    assert times == [CLOCK.start_ms + 250 * number for number in range(1000)]


def test_shoppers_take_turns_and_nobody_is_there_twice(shop: Tastes) -> None:
    crowd = Crowd(Population(shop, 12), CLOCK, 10)
    events = [crowd.turn() for _ in range(2000)]
    for first in range(0, 2000, 10):
        assert len({event.user_id for event in events[first : first + 10]}) == 10
    assert {event.user_id for event in events} == {f"shopper-0-{user}" for user in range(12)}
    assert len({event.event_id for event in events}) == 2000


def test_more_shoppers_at_once_than_there_are_is_refused(shop: Tastes) -> None:
    with pytest.raises(ValueError, match="got 5 users, 6 at once"):
        Crowd(Population(shop, 5), CLOCK, 6)


def test_every_click_counted_is_an_event(shop: Tastes) -> None:
    crowd = Crowd(Population(shop, 500), CLOCK, 20)
    events = served(crowd, shop, 20_000)
    exposure = crowd.exposures["v1", False]
    kinds = Counter(e.event_type for e in events if e.recommendation_id is not None)
    assert kinds["view_item_list"] == exposure.lists > 3000
    assert kinds["select_item"] == exposure.clicks > 2000
    assert exposure.impressions == 8 * exposure.lists
    assert crowd.events == Counter(event.event_type for event in events)
    assert crowd.sent == len(events)
    unseen = crowd.lists_received - exposure.lists - crowd.lists_missed
    assert 0 <= unseen <= 20, "at most one list waits for each who is here"


def test_clicks_scatter_about_the_known_number_as_they_should(shop: Tastes) -> None:
    """Over many seeds: no bias, and two sigma are two sigma."""
    scores = []
    for seed in range(30):
        crowd = Crowd(Population(shop, 500, seed), CLOCK, 20)
        served(crowd, shop, 2000)
        seen = crowd.exposures["v1", False]
        scores.append((seen.clicks - seen.expected_clicks) / seen.variance**0.5)
    assert abs(np.mean(scores)) < 3 / 30**0.5
    assert np.mean(np.abs(scores) < 2) >= 0.9
    assert 0.7 < np.std(scores) < 1.3


def test_a_list_that_comes_too_late_twice_or_for_a_stranger_is_not_seen(shop: Tastes) -> None:
    crowd = Crowd(Population(shop, 50), CLOCK, 1)
    first = crowd.turn()
    crowd.offer(msgspec.structs.replace(answer(shop, first), user_id="somebody"))
    assert crowd.lists_missed == 1
    second = crowd.turn()
    assert second.recommendation_id is None
    crowd.offer(answer(shop, first))
    assert (crowd.lists_received, crowd.lists_missed) == (2, 2)
    if second.event_type not in ANSWERED:
        second = crowd.turn()
    crowd.offer(answer(shop, second))
    assert crowd.turn().recommendation_id == f"v1:{second.event_id}"
    crowd.offer(answer(shop, second))
    assert crowd.lists_missed == 3
    assert sum(exposure.lists for exposure in crowd.exposures.values()) == 1


def test_exposures_are_told_apart_by_bundle_and_by_drift(shop: Tastes) -> None:
    after = shop.drifted(1.0, 0.0, 1)
    drift = Drift(CLOCK.at(5000), after)
    crowd = Crowd(Population(shop, 500, drift=drift), CLOCK, 20)
    for number in range(15_000):
        event = crowd.turn()
        if event.event_type in ANSWERED:
            model, version = (shop, "old") if number < 10_000 else (after, "new")
            crowd.offer(answer(model, event, version))
    rates = {key: exposure.ctr for key, exposure in crowd.exposures.items()}
    assert rates.keys() == {("old", False), ("old", True), ("new", True)}
    assert rates["old", True] < 0.3 * rates["old", False]
    assert rates["new", True] > 3 * rates["old", True]


def test_tastes_may_drift_at_any_moment_as_if_it_had_been_planned(shop: Tastes) -> None:
    after = shop.drifted(1.0, 0.0, 1)
    crowd, same = Crowd(Population(shop, 500), CLOCK, 20), Crowd(Population(shop, 500), CLOCK, 20)
    planned = Crowd(Population(shop, 500, drift=Drift(CLOCK.at(1000), after)), CLOCK, 20)
    first = [crowd.turn() for _ in range(1000)]
    crowd.drift(after)
    events = first + [crowd.turn() for _ in range(1000)]
    assert events == [planned.turn() for _ in range(2000)]
    assert events != [same.turn() for _ in range(2000)]
