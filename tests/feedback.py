"""Lists, what users do with them, and what feedback must say of it, told independently."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.simulate.crowd import Clock, Crowd
from jobs.simulate.population import Offer, OfferedItem, Population, ShopperEvent
from jobs.simulate.tastes import synthetic_tastes
from tests.kafka import Record
from udfs.feedback import LABEL_OF_TYPE, credit, decode_action, decode_list, finish, revise

START_MS = 1_322_728_000_000
HORIZON_MS, DISORDER_MS = 600_000, 10_000
RECEIVED_MS = START_MS + 10 * HORIZON_MS
ACTIONS = tuple(LABEL_OF_TYPE)[1:]


@dataclass(frozen=True)
class Made:
    """A list as it was recommended."""

    recommendation_id: str
    user: str
    time: int
    items: tuple[str, ...]

    def record(self) -> Record:
        message = {
            "schema_version": 1,
            "recommendation_id": self.recommendation_id,
            "trigger_event_id": f"t-{self.recommendation_id}",
            "user_id": self.user,
            "event_time": self.time,
            "generated_at": self.time + 7,
            "items": [
                {"item_id": item, "position": n, "score": 1.0, "propensity": 1 / (n + 1)}
                for n, item in enumerate(self.items)
            ],
            "bundle_version": "bundle-1",
            "experiment": {"id": "x", "variant": "b"},
            "served_by": "full",
        }
        return Record(json.dumps(message).encode(), self.user.encode())


@dataclass(frozen=True)
class Act:
    """Something that a user did; `items` are (item, price, quantity)."""

    event_id: str
    type: str
    user: str
    time: int
    items: tuple[tuple[str, float, int], ...] = ()
    recommendation_id: str | None = None

    def record(self) -> Record:
        message: dict[str, Any] = {
            "event_id": self.event_id,
            "event_type": self.type,
            "event_time": self.time,
            "user_id": self.user,
            "items": [{"item_id": i, "price": p, "quantity": q} for i, p, q in self.items],
        }
        if self.recommendation_id:
            message["recommendation_id"] = self.recommendation_id
        return Record(json.dumps(message).encode(), self.user.encode(), [("n", b"1")])


@dataclass
class Truth:
    """What is so of one item of a list."""

    labels: set[str] = field(default_factory=set)
    value: float = 0.0
    shown: list[int] = field(default_factory=list)
    acted: list[int] = field(default_factory=list)
    named: bool = False

    def as_told(self) -> dict[str, Any]:
        names = ("impression", "click", "cart", "purchase")
        attribution = "exact" if self.named else "item_window"
        return {
            "label": {name: name in self.labels for name in names},
            "value": round(self.value, 6),
            "shown_at": min(self.shown, default=None),
            "acted_at": min(self.acted, default=None),
            "attribution": attribution if self.acted else "none",
        }


def truth(lists: Sequence[Made], acts: Iterable[Act]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the final records must say: (recommendation_id, item) → labels, times, attribution."""
    found: dict[tuple[str, str], Truth] = {}
    for act in set(acts):
        for made, item, value in _meant(lists, act):
            of_item = found.setdefault((made.recommendation_id, item), Truth())
            if act.type == "view_item_list":
                of_item.labels.add("impression")
                of_item.shown.append(act.time)
                continue
            names = {"select_item": "click", "add_to_cart": "cart", "purchase": "purchase"}
            of_item.labels.add(names[act.type])
            of_item.acted.append(act.time)
            of_item.named |= act.recommendation_id is not None
            of_item.value += value if act.type == "purchase" else 0
    return {key: known.as_told() for key, known in found.items()}


def _meant(lists: Sequence[Made], act: Act) -> list[tuple[Made, str, float]]:
    """(list, item, value) that an action is about, each item once."""
    if act.recommendation_id is not None:
        named = [made for made in lists if made.recommendation_id == act.recommendation_id]
        if not named or not -DISORDER_MS <= act.time - named[0].time <= HORIZON_MS:
            return []
        if act.type == "view_item_list" and not act.items:
            return [(named[0], item, 0.0) for item in named[0].items]
    meant = []
    for item in {item for item, _, _ in act.items}:
        paid = sum(price * quantity for i, price, quantity in act.items if i == item)
        holding = [
            made
            for made in (lists if act.recommendation_id is None else named)
            if item in made.items
            and (
                act.recommendation_id is not None
                or (made.user == act.user and made.time < act.time <= made.time + HORIZON_MS)
            )
        ]
        if holding and (act.type != "view_item_list" or act.recommendation_id):
            newest = max(holding, key=lambda made: (made.time, made.recommendation_id))
            meant.append((newest, item, paid))
    return meant


def told(record: dict[str, Any]) -> dict[str, Any]:
    """A feedback message cut down to what `truth` tells."""
    kept = {name: record[name] for name in ("label", "shown_at", "acted_at", "attribution")}
    return kept | {"value": round(record["value"], 6)}


def by_the_rules(
    lists: Sequence[Made], arrivals: Sequence[Act]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The revisions and final records by the engine-free rules, actions arriving in this order."""
    texts = [(made, decode_list(made.record().value, RECEIVED_MS)[2]) for made in lists]
    of_list: dict[str, list[str]] = {made.recommendation_id: [] for made in lists}
    list_text = {made.recommendation_id: text for made, text in texts}
    revisions = []
    for act in arrivals:
        user, named, action = decode_action(act.record().value, RECEIVED_MS)
        if action is None:
            continue
        if named is None:
            near = [t for made, t in texts if made.user == user and _in_reach(made, act)]
            credited = credit(",".join(near), action, HORIZON_MS)
        else:
            reach = any(
                made.recommendation_id == named
                and -DISORDER_MS <= act.time - made.time <= HORIZON_MS
                for made in lists
            )
            credited = [(named, action)] if reach else []
        for identity, text in credited:
            of_list[identity].append(text)
            told_now, _ = revise(list_text[identity], ",".join(of_list[identity]), True)
            revisions += [json.loads(one.value) for one in told_now]
    finals = [
        json.loads(one.value)
        for identity, actions in of_list.items()
        if actions
        for one in finish(list_text[identity], ",".join(actions))
    ]
    return revisions, finals


def _in_reach(made: Made, act: Act) -> bool:
    """What the window over a user's lists hands to `credit`: its bounds are the coarser ones."""
    return act.time - HORIZON_MS <= made.time <= act.time


def browsing(seed: int, users: int, start: int = START_MS) -> tuple[list[Made], list[Act]]:
    """Users with a few lists that share items, who see, click, put into the cart and buy.

    Some actions name their list, some come before the list was shown, some after the horizon.
    """
    draw = random.Random(seed)
    lists, acts = [], []
    for user in (f"u-{seed}-{number}" for number in range(users)):
        times = sorted(draw.randrange(2 * HORIZON_MS) for _ in range(draw.randrange(1, 5)))
        mine = [
            Made(f"r-{user}-{n}", user, start + at, tuple(draw.sample(POOL, 5)))
            for n, at in enumerate(times)
        ]
        lists += mine
        for number in range(draw.randrange(12)):
            acts.append(_act(draw, f"e-{user}-{number}", user, draw.choice(mine)))
    return lists, acts


POOL = [f"i-{number}" for number in range(8)]


def _act(draw: random.Random, name: str, user: str, made: Made) -> Act:
    kind = draw.choices(tuple(LABEL_OF_TYPE), [4, 4, 2, 2])[0]
    # Now and then at a bound: before the list, at its time, at the end of its horizon, after it.
    after = draw.choice(
        [draw.randrange(HORIZON_MS)] * 6 + [-DISORDER_MS, 0, 1, HORIZON_MS, HORIZON_MS + 1]
    )
    shown = kind == "view_item_list"
    items = () if shown and draw.random() < 0.5 else draw.sample(POOL, draw.randrange(1, 4))
    bought = tuple((item, draw.randrange(1, 900) / 100, draw.randrange(1, 3)) for item in items)
    named = made.recommendation_id if shown or draw.random() < 0.5 else None
    return Act(name, kind, user, made.time + after, bought, named)


@dataclass(frozen=True)
class Shopped:
    """What simulated shoppers, whose every look was answered, saw and did."""

    lists: list[Made]
    acts: list[Act]
    clicks: set[tuple[str, str]]  # (recommendation_id, item) clicked in a list
    impressions: int
    expected_clicks: float
    sigma: float  # of the clicks


def shopped(seed: int, turns: int) -> Shopped:
    """Shoppers of known click-through, as `jobs simulate` sends them, each look answered."""
    shop = synthetic_tastes(items=300, clusters=6, seed=seed)
    crowd = Crowd(Population(shop, 500, seed), Clock(START_MS, 200.0), at_once=20)
    lists, events = [], []
    for _ in range(turns):
        events.append(event := crowd.turn())
        if event.event_type in ("view_item", "select_item"):
            near = tuple(shop.following(event.items[0].item_id))
            lists.append(Made(f"r-{event.event_id}", event.user_id, event.event_time, near))
            offered = [OfferedItem(item, position) for position, item in enumerate(near)]
            name = lists[-1].recommendation_id
            crowd.offer(Offer(name, event.event_id, event.user_id, offered, "bundle-1"))
    acts = [_of_shopper(event) for event in [*events, *crowd.finish()]]
    (seen,) = crowd.exposures.values()
    return Shopped(
        lists,
        [act for act in acts if act.type in LABEL_OF_TYPE],
        {
            (act.recommendation_id, act.items[0][0])
            for act in acts
            if act.type == "select_item" and act.recommendation_id is not None
        },
        seen.impressions,
        seen.expected_clicks,
        seen.variance**0.5,
    )


def _of_shopper(event: ShopperEvent) -> Act:
    items = tuple((item.item_id, item.price or 0.0, 1) for item in event.items)
    return Act(
        event.event_id,
        event.event_type,
        event.user_id,
        event.event_time,
        items,
        event.recommendation_id,
    )


def check_rate(shopped: Shopped, finals: Iterable[dict[str, Any]]) -> None:
    """Clicks in a list are exactly those the shoppers made, about as many as were expected.

    Not counted are actions that did not name a list: shoppers come upon its items elsewhere too.
    """
    made = {one.recommendation_id for one in shopped.lists}
    of_them = [record for record in finals if record["recommendation_id"] in made]
    assert sum(record["label"]["impression"] for record in of_them) == shopped.impressions
    clicked = {
        (record["recommendation_id"], record["item_id"])
        for record in of_them
        if record["attribution"] == "exact" and record["label"]["click"]
    }
    assert clicked == shopped.clicks
    assert abs(len(clicked) - shopped.expected_clicks) < 2 * shopped.sigma


def interleaved(draw: random.Random, acts: Sequence[Act], repeats: float = 0.3) -> list[Act]:
    """The actions in another order of arrival, some of them several times."""
    arrivals = list(acts) + [act for act in acts if draw.random() < repeats]
    draw.shuffle(arrivals)
    return arrivals
