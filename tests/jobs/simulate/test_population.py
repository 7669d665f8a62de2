"""Shoppers: what they do is their own, and their clicks come as often as is known beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError

from jobs.simulate.population import (
    Drift,
    Exposure,
    Offer,
    OfferedItem,
    Population,
    ShopperEvent,
    Shopping,
    Visit,
    examination,
)
from jobs.simulate.tastes import Tastes, synthetic_tastes
from udfs.events import TYPE_CODES, decode

T0 = 1_735_689_600_000
Lister = Callable[[Visit, str], list[str]]
encode = msgspec.json.Encoder().encode


@pytest.fixture(scope="module")
def shop() -> Tastes:
    return synthetic_tastes(items=300, clusters=6, seed=1)


def offer(visit: Visit, items: list[str], name: str = "r") -> Offer:
    """A list for what the shopper did last."""
    offered = [OfferedItem(item, position) for position, item in enumerate(items)]
    return Offer(name, visit.last_event_id, visit.user_id, offered, "v1")


def organic(visit: Visit) -> list[ShopperEvent]:
    """The visit to its end, without lists."""
    return list(iter(lambda: visit.next(T0), None))


def first_seen(population: Population, visits: int, lister: Lister) -> Iterator[Exposure]:
    """What becomes of a list after the first event of each visit."""
    for number in range(visits):
        visit = population.visit(number % population.users, number // population.users, T0)
        first = visit.next(T0)
        assert first is not None
        yield visit.see(offer(visit, lister(visit, first.items[0].item_id)))


def total(exposures: Iterator[Exposure]) -> Exposure:
    whole = Exposure()
    for exposure in exposures:
        whole.add(exposure)
    return whole


def mixed(shop: Tastes) -> Lister:
    """Two items that go with the last one, eight of the others: a list of a fair model."""
    ids = shop.items.ids

    def items(visit: Visit, last: str) -> list[str]:
        at = shop.role_of[last]
        return [*shop.following(last)[:2], *(ids[(at + step * 37) % 300] for step in range(1, 9))]

    return items


def test_a_visit_is_always_the_same_and_hangs_on_seed_run_user_and_number(shop: Tastes) -> None:
    population = Population(shop, users=50, seed=1)
    visits = [(user, number) for user in range(50) for number in range(3)]
    first = [encode(organic(population.visit(*visit, T0))) for visit in visits]
    again = {v: encode(organic(population.visit(*v, T0))) for v in reversed(visits)}
    assert first == [again[visit] for visit in visits]
    kinds = [
        [(e.event_type, [i.item_id for i in e.items]) for e in organic(visit)]
        for visit in (
            population.visit(7, 0, T0),
            population.visit(7, 1, T0),
            population.visit(8, 0, T0),
            population.visit(7, 0, T0, run=1),
            Population(shop, users=50, seed=2).visit(7, 0, T0),
        )
    ]
    assert len({repr(kind) for kind in kinds}) == 5


def test_visits_taken_by_turns_are_the_visits_taken_one_by_one(shop: Tastes) -> None:
    population = Population(shop, users=40)
    alone = [encode(organic(population.visit(user, 0, T0))) for user in range(40)]
    visits = [population.visit(user, 0, T0) for user in range(40)]
    events: list[list[ShopperEvent]] = [[] for _ in visits]
    while True:
        made = [(user, visit.next(T0)) for user, visit in enumerate(visits)]
        for user, event in made:
            if event is not None:
                events[user].append(event)
        if all(event is None for _, event in made):
            break
    assert [encode(each) for each in events] == alone


def test_every_event_is_valid_and_none_has_the_id_of_another(shop: Tastes) -> None:
    population = Population(shop, users=30)
    seen: set[str] = set()
    for user in range(30):
        visit = population.visit(user, 2, T0)
        for made in organic(visit):
            who, event = decode(encode(made), T0)
            assert (who, event.session_id, event.time) == (visit.user_id, visit.session_id, T0)
            assert event.event_id not in seen
            seen.add(event.event_id)
            assert bool(event.items) == (event.type != TYPE_CODES["session_end"])


def test_the_events_about_a_list_name_it_and_the_position(shop: Tastes) -> None:
    population = Population(shop, users=200, shopping=Shopping(follows=1.0, cart=0.7, buy=0.9))
    kinds: Counter[str] = Counter()
    for user in range(200):
        visit = population.visit(user, 0, T0)
        first = visit.next(T0)
        assert first is not None
        items = shop.following(first.items[0].item_id)
        visit.see(offer(visit, items, name="list-7"))
        events = []
        while visit.busy:
            event = visit.next(T0)
            assert event is not None
            events.append(event)
        kinds.update(event.event_type for event in events)
        assert {event.recommendation_id for event in events} == {"list-7"}
        assert events[0].event_type == "view_item_list"
        assert [(i.item_id, i.position) for i in events[0].items] == [
            *zip(items, range(8), strict=True)
        ]
        for event in events[1:]:
            (item,) = event.items
            assert item.price == shop.items.prices[shop.role_of[item.item_id]]
            if event.event_type == "select_item":
                assert items[item.position or 0] == item.item_id
        chosen = [e.items[0].item_id for e in events if e.event_type == "select_item"]
        assert items[0] == chosen[0], "an affinity of 1 at the first position is a click"
    assert min(kinds[name] for name in ("select_item", "add_to_cart", "purchase")) > 50


def test_only_what_is_in_the_cart_is_bought_and_nothing_comes_after_the_end(shop: Tastes) -> None:
    population = Population(shop, users=500)
    bought = ended = 0
    for user in range(500):
        events = organic(population.visit(user, 0, T0))
        cart = [e.items[0].item_id for e in events if e.event_type == "add_to_cart"]
        types = [event.event_type for event in events]
        for at, event in enumerate(events):
            if event.event_type == "purchase":
                bought += 1
                assert [item.item_id for item in event.items] == cart
                assert set(types[at + 1 :]) <= {"session_end"}
        assert "session_end" not in types[:-1]
        ended += types[-1] == "session_end"
    assert bought > 20
    assert abs(ended / 500 - 0.5) < 2 * (0.25 / 500) ** 0.5


def test_shoppers_go_on_to_items_that_follow_within_the_clusters_they_like(shop: Tastes) -> None:
    population, roles = Population(shop, users=400), shop.roles
    steps: Counter[str] = Counter()
    for user in range(400):
        looks = [
            shop.role_of[event.items[0].item_id]
            for event in organic(population.visit(user, 0, T0))
            if event.event_type in ("view_item", "select_item")
        ]
        assert {roles.cluster[role] for role in looks} <= {*population.favourites(user)}
        for role, after in pairwise(looks):
            steps["follows" if after in roles.following[role] else "other"] += 1
    known = 0.1 / (1 - 0.12 - 0.15)  # wander, of the steps that are looks
    share = steps["other"] / steps.total()
    by_chance = known * 8 / 50  # a wanderer may come upon one that follows
    assert known - by_chance - 0.03 < share < known


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_clicks_come_as_often_as_is_known(shop: Tastes, bias: float) -> None:
    population = Population(shop, users=4000, shopping=Shopping(position_bias=bias))
    seen = total(first_seen(population, 4000, mixed(shop)))
    assert (seen.lists, seen.impressions) == (4000, 40_000)
    assert seen.clicks > 1000
    assert abs(seen.clicks - seen.expected_clicks) < 2 * seen.variance**0.5


def test_the_expected_clicks_are_affinity_times_examination(shop: Tastes) -> None:
    visit = Population(shop, shopping=Shopping(position_bias=0.5)).visit(3, 0, T0)
    first = visit.next(T0)
    assert first is not None
    last = first.items[0].item_id
    role = shop.role_of[last]
    liked = set(Population(shop).favourites(3)) | {shop.roles.cluster[role]}
    same = next(  # of the cluster, but not among those that follow
        shop.items.ids[each]
        for each in shop.roles.members[shop.roles.cluster[role]]
        if each != role and each not in shop.roles.following[role]
    )
    other = next(i for i, r in shop.role_of.items() if shop.roles.cluster[r] not in liked)
    items = [shop.following(last)[0], same, other, "an item of nobody", last]
    assert visit.click_probabilities(offer(visit, items)) == pytest.approx(
        [0.4, 0.15 * 2**-0.5, 0.005 * 3**-0.5, 0.005 / 2, 0.0]
    )
    seen = visit.see(offer(visit, items))
    assert seen.expected_clicks == pytest.approx(0.4 + 0.15 * 2**-0.5 + 0.005 * (3**-0.5 + 0.5))


def test_an_item_of_another_liked_cluster_is_liked_less_than_one_of_this(shop: Tastes) -> None:
    population = Population(shop, users=300)
    affinities = set()
    for user in range(300):
        visit = population.visit(user, 0, T0)
        first = visit.next(T0)
        assert first is not None
        here = shop.roles.cluster[shop.role_of[first.items[0].item_id]]
        for cluster in set(population.favourites(user)) - {here}:
            affinities.add(visit.affinity(shop.items.ids[shop.roles.members[cluster][0]]))
    assert affinities == {0.05}


@pytest.mark.parametrize("bias", [0.0, 0.7, 1.5])
def test_position_bias_is_what_it_says(shop: Tastes, bias: float) -> None:
    """Items of one affinity at all positions: clicks fall off as the examination does."""
    shopping = Shopping(follows=0.9, position_bias=bias)
    population = Population(shop, users=6000, shopping=shopping)
    clicks: Counter[int] = Counter()
    for user in range(6000):
        visit = population.visit(user, 0, T0)
        first = visit.next(T0)
        assert first is not None
        visit.see(offer(visit, shop.following(first.items[0].item_id)))
        while visit.busy:
            event = visit.next(T0)
            assert event is not None
            if event.event_type == "select_item":
                clicks[event.items[0].position or 0] += 1
    known = np.array([6000 * 0.9 * examination(k, bias) for k in range(8)])
    got = np.array([clicks[k] for k in range(8)])
    deviation = (got - known) / np.sqrt(known * (1 - known / 6000))
    assert (deviation**2).sum() < 20.1  # chi-square, 8 degrees of freedom, 99 %


def clicked(visit: Visit, items: list[str], name: str) -> set[str]:
    visit.see(offer(visit, items, name))
    found = set()
    while visit.busy:
        event = visit.next(T0)
        assert event is not None
        if event.event_type == "select_item":
            found.add(event.items[0].item_id)
    return found


def test_the_same_list_gets_the_same_clicks_and_a_better_place_keeps_them(shop: Tastes) -> None:
    population = Population(shop, users=500)
    more = 0
    for user in range(500):
        visits = [population.visit(user, 0, T0) for _ in range(3)]
        last, *_ = (visit.next(T0) for visit in visits)
        assert last is not None
        near = shop.following(last.items[0].item_id)
        first = clicked(visits[0], near, "r1")
        assert clicked(visits[1], near, "r2, of another bundle") == first
        nearer = clicked(visits[2], near[4:], "r3")  # four positions up
        assert first & set(near[4:]) <= nearer
        more += len(nearer) - len(first & set(near[4:]))
    assert more > 50


def test_an_item_is_not_clicked_twice_in_a_visit(shop: Tastes) -> None:
    population = Population(shop, users=100, shopping=Shopping(follows=1.0, position_bias=0.0))
    for user in range(100):
        visit = population.visit(user, 0, T0)
        first = visit.next(T0)
        assert first is not None
        near = shop.following(first.items[0].item_id)
        assert clicked(visit, near, "r1") == set(near)
        assert clicked(visit, near, "r2") == set()


def test_after_a_click_the_shopper_goes_on_from_the_clicked_item(shop: Tastes) -> None:
    population = Population(shop, users=300, shopping=Shopping(follows=1.0, wander=0.0, leave=0.05))
    followed = 0
    for user in range(300):
        visit = population.visit(user, 0, T0)
        first = visit.next(T0)
        assert first is not None
        (item,) = clicked(visit, shop.following(first.items[0].item_id)[-1:], "r")
        event = visit.next(T0)
        if event is not None and event.event_type in ("view_item", "select_item"):
            assert event.items[0].item_id in shop.following(item)
            followed += 1
    assert followed > 200


def test_a_list_for_an_earlier_event_is_not_an_answer(shop: Tastes) -> None:
    visit = Population(shop).visit(0, 0, T0)
    assert visit.next(T0) is not None
    late = offer(visit, ["item-000001"])
    assert visit.answers(late)
    visit.see(late)
    assert not visit.answers(late)  # it is being looked at
    while visit.busy:
        visit.next(T0)
    assert not visit.answers(late)


def test_drift_begins_with_the_visits_after_it_and_leaves_those_before_alone(shop: Tastes) -> None:
    after = shop.drifted(0.5, 0.1, 3)
    still, moved = Population(shop, 100), Population(shop, 100, drift=Drift(T0, after))
    new = set(after.items.ids) - set(shop.items.ids)
    looked: set[str] = set()
    for user in range(100):
        before = moved.visit(user, 0, T0 - 1)
        assert not before.drifted
        assert encode(organic(before)) == encode(organic(still.visit(user, 0, T0)))
        late = moved.visit(user, 0, T0)
        assert late.drifted
        looked |= {item.item_id for event in organic(late) for item in event.items}
        assert moved.favourites(user) == still.favourites(user)
    assert looked & new
    assert looked <= set(after.items.ids)


def test_lists_that_were_good_lose_their_clicks_with_drift_and_new_ones_win_them_back(
    shop: Tastes,
) -> None:
    after = shop.drifted(1.0, 0.0, 3)
    drifted = Population(shop, 2000, drift=Drift(T0, after))
    good = total(first_seen(Population(shop, 2000), 2000, lambda _, last: shop.following(last)))
    old = total(first_seen(drifted, 2000, lambda _, last: shop.following(last)))
    new = total(first_seen(drifted, 2000, lambda _, last: after.following(last)))
    assert good.ctr > 0.1
    assert old.ctr < 0.2 * good.ctr
    assert new.ctr == pytest.approx(good.ctr, rel=0.1)
    assert old.expected_ctr < 0.2 * good.expected_ctr


def test_a_smaller_drift_costs_less(shop: Tastes) -> None:
    rates = [
        total(
            first_seen(
                Population(shop, 2000, drift=Drift(T0, shop.drifted(share, 0.0, 3))),
                2000,
                lambda _, last: shop.following(last),
            )
        ).expected_ctr
        for share in (0.0, 0.2, 0.5, 1.0)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[1] > 2 * rates[3]


@pytest.mark.parametrize("wrong", [{"follows": 1.5}, {"leave": 0.5, "cart": 0.5}, {"clicks": 1}])
def test_impossible_probabilities_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"less than|at most 1|not permitted"):
        Shopping(**wrong)
