"""Simulated shoppers: they browse by hidden tastes, see lists and click with known probability.

Tastes ─ Population ─ Visit ─┬─ browse ─────────────┬─ events
                 Offer ──────┴─ see: click or not ──┘

Nothing is drawn from a shared stream: what a shopper does in a visit is a function of the seed,
the shopper, the visit, the step and the list (a counter-based generator, as in Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"). Another order of shoppers changes nothing, and two
models that are given the same shoppers differ by their lists alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct
from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from jobs.simulate.tastes import Tastes

SCHEMA_VERSION = 1
FAVOURITES = (0.6, 0.9, 1.0)  # cumulative shares of the three clusters that a shopper likes
_PLACE = Struct("<4q").pack
_STEP = Struct("<I").pack
_WORDS = Struct("<4I").unpack
_UNIT = 2.0**-32


class Shopping(BaseModel):
    """How shoppers behave; all but `position_bias` are probabilities."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    follows: float = Field(
        0.4, ge=0, le=1, description="click on an examined item that goes with the last one"
    )
    same: float = Field(0.15, ge=0, le=1, description="click on another one of its cluster")
    liked: float = Field(0.05, ge=0, le=1, description="click on one of another liked cluster")
    other: float = Field(0.005, ge=0, le=1, description="click on any other")
    position_bias: float = Field(
        1.0, ge=0, description="position k is examined with (1 + k)^-position_bias"
    )
    wander: float = Field(0.1, ge=0, le=1, description="go on with another cluster")
    leave: float = Field(0.12, gt=0, le=1, description="end the visit, at any step")
    cart: float = Field(0.15, ge=0, le=1, description="add the item just looked at to the cart")
    buy: float = Field(0.3, ge=0, le=1, description="buy what is in the cart before leaving")
    session_end: float = Field(0.5, ge=0, le=1, description="say so when leaving")

    @model_validator(mode="after")
    def _leaves_room(self) -> Shopping:
        if self.leave + self.cart + self.wander > 1:
            raise ValueError("expected leave + cart + wander of at most 1: a step is one of these")
        return self


class OfferedItem(msgspec.Struct, gc=False):
    """What a shopper notices of an item of a list."""

    item_id: str
    position: Annotated[int, msgspec.Meta(ge=0)]


class Offer(msgspec.Struct):
    """A record on `recommendations`, as far as a shopper or the summary cares."""

    recommendation_id: str
    trigger_event_id: str
    user_id: str
    items: list[OfferedItem]
    bundle_version: str


class ShopperItem(msgspec.Struct, gc=False, omit_defaults=True):
    item_id: str
    position: int | None = None
    price: float | None = None


class ShopperEvent(msgspec.Struct, gc=False, omit_defaults=True):
    """An event as it goes to `user-events`; `event_time` in epoch ms."""

    schema_version: int
    event_id: str
    event_type: str
    event_time: int
    user_id: str
    session_id: str
    items: list[ShopperItem] = []
    recommendation_id: str | None = None


@dataclass(slots=True)
class Exposure:
    """Lists that were seen, and the clicks they got and were expected to get."""

    lists: int = 0
    impressions: int = 0
    clicks: int = 0
    expected_clicks: float = 0.0
    variance: float = 0.0  # of the clicks

    def add(self, other: Exposure) -> None:
        """Count the other's lists too."""
        self.lists += other.lists
        self.impressions += other.impressions
        self.clicks += other.clicks
        self.expected_clicks += other.expected_clicks
        self.variance += other.variance

    @property
    def ctr(self) -> float:
        """Clicks an impression."""
        return self.clicks / max(self.impressions, 1)

    @property
    def expected_ctr(self) -> float:
        """The known click probability, averaged over the impressions."""
        return self.expected_clicks / max(self.impressions, 1)


def examination(position: int, bias: float) -> float:
    """Probability that position k, from 0, is looked at: (1 + k)^-bias.

    The position-based model (Craswell et al. 2008, "An experimental comparison of click
    position-bias models"): a click is an examination times the item's own affinity.
    """
    return float((1 + position) ** -bias)


@dataclass(frozen=True, slots=True)
class Drift:
    """The tastes of every visit that begins at `at_ms` or later, in epoch ms of event time."""

    at_ms: int
    tastes: Tastes


@dataclass(frozen=True, slots=True)
class Population:
    """Shoppers 0 … users - 1; they differ by the clusters they like."""

    tastes: Tastes
    users: int = 20_000
    seed: int = 0
    shopping: Shopping = field(default_factory=Shopping)
    drift: Drift | None = None

    def visit(self, user: int, number: int, began_ms: int, run: int = 0) -> Visit:
        """The shopper's visit of that number; another `run` has other visits."""
        place = (self.seed, run, user, number)
        if self.drift is not None and began_ms >= self.drift.at_ms:
            return Visit(self.drift.tastes, self.shopping, place, drifted=True)
        return Visit(self.tastes, self.shopping, place)

    def favourites(self, user: int) -> tuple[int, ...]:
        """The clusters that a shopper likes, the dearest first; drift does not change them."""
        return favourites(self.tastes, self.seed, user)


def favourites(tastes: Tastes, seed: int, user: int) -> tuple[int, ...]:
    """Clusters drawn by popularity, the same in every visit of the shopper."""
    draws = _uniforms(_PLACE(seed, user, 0, 0) + b"favourites")
    return tuple(tastes.roles.any_cluster(draw) for draw in draws[: len(FAVOURITES)])


def _uniforms(place: bytes) -> tuple[float, float, float, float]:
    """Four numbers, uniform in [0, 1), that depend on `place` alone."""
    a, b, c, d = _WORDS(blake2b(place, digest_size=16).digest())
    return a * _UNIT, b * _UNIT, c * _UNIT, d * _UNIT


class Visit:
    """One visit of one shopper, an event at a time."""

    def __init__(
        self,
        tastes: Tastes,
        shopping: Shopping,
        place: tuple[int, int, int, int],
        drifted: bool = False,
    ) -> None:
        seed, run, user, number = place
        self.user_id = f"shopper-{seed}-{user}"
        self.session_id = f"{self.user_id}-{run}-{number}"
        self.drifted = drifted
        self.last_event_id = ""
        self._tastes, self._shopping = tastes, shopping
        self._favourites = favourites(tastes, seed, user)
        self._place = _PLACE(*place)
        self._made = 0  # events so far
        self._pending: deque[ShopperEvent] = deque()  # decided, not yet done
        self._gone = False
        self._role: int | None = None  # of the item last looked at
        self._item = ""
        self._looked: set[str] = set()
        self._cart: list[str] = []

    @property
    def busy(self) -> bool:
        """Whether something is decided and not yet done."""
        return bool(self._pending)

    def next(self, time_ms: int) -> ShopperEvent | None:
        """What the shopper does at that time; None when the visit is over."""
        if not self._pending and not self._gone:
            self._browse()
        if not self._pending:
            return None
        event = self._pending.popleft()
        event.event_time = time_ms
        self.last_event_id = event.event_id
        return event

    def answers(self, offer: Offer) -> bool:
        """Whether the list is for what the shopper did last, and so still seen."""
        return offer.trigger_event_id == self.last_event_id and not self.busy and not self._gone

    def see(self, offer: Offer) -> Exposure:
        """Look at a list and decide; the events come from `next`.

        Whether an item is clicked hangs on a number of its own: at a better position, or
        beside other items, a click stays a click.
        """
        chances = self.click_probabilities(offer)
        drawn = [self._draw(item.item_id.encode()) for item in offer.items]
        shown = [ShopperItem(item.item_id, item.position) for item in offer.items]
        self._do("view_item_list", shown, offer.recommendation_id)
        clicks = 0
        for item, chance, (click, cart, buy, _) in zip(offer.items, chances, drawn, strict=True):
            if click < chance:
                clicks += 1
                self._click(item, offer.recommendation_id, cart, buy)
        expected, variance = sum(chances), sum(chance * (1 - chance) for chance in chances)
        return Exposure(1, len(chances), clicks, expected, variance)

    def click_probabilities(self, offer: Offer) -> list[float]:
        """The known probability of a click on each item of the list, if it is seen now."""
        bias = self._shopping.position_bias
        return [
            self.affinity(item.item_id) * examination(item.position, bias) for item in offer.items
        ]

    def affinity(self, item_id: str) -> float:
        """Probability of a click on the item if it is examined now; 0 if it was looked at."""
        if item_id in self._looked:
            return 0.0
        role, roles = self._tastes.role_of.get(item_id), self._tastes.roles
        if role is None or self._role is None:
            return self._shopping.other
        if role in roles.following[self._role]:
            return self._shopping.follows
        cluster = roles.cluster[role]
        if cluster == roles.cluster[self._role]:
            return self._shopping.same
        return self._shopping.liked if cluster in self._favourites else self._shopping.other

    def _draw(self, what: bytes = b"") -> tuple[float, float, float, float]:
        return _uniforms(self._place + _STEP(self._made) + what)

    def _browse(self) -> None:
        act, which, how, look = self._draw()
        shopping = self._shopping
        if self._role is None:
            self._look(self._liked_role(which, how), look)
        elif act < shopping.leave:
            self._leave(which, how)
        elif act < shopping.leave + shopping.cart and self._item not in self._cart:
            self._add_to_cart(self._item, None)
        elif act >= 1 - shopping.wander:
            self._look(self._liked_role(which, how), look)
        else:
            self._look(self._tastes.roles.next_role(self._role, which), look)

    def _liked_role(self, which: float, how: float) -> int:
        """A role of one of the clusters that the shopper likes."""
        return self._tastes.roles.any_role(self._favourites[bisect_right(FAVOURITES, which)], how)

    def _look(self, role: int, how: float) -> None:
        self._role, self._item = role, self._tastes.items.ids[role]
        self._looked.add(self._item)
        kind = "view_item" if how < 0.7 else "select_item"  # a link, or out of a page of the shop
        self._do(kind, [self._priced(self._item)])

    def _click(self, item: OfferedItem, recommendation_id: str, cart: float, buy: float) -> None:
        self._role = self._tastes.role_of.get(item.item_id, self._role)
        self._item = item.item_id
        self._looked.add(item.item_id)
        clicked = self._priced(item.item_id)
        clicked.position = item.position
        self._do("select_item", [clicked], recommendation_id)
        if cart < self._shopping.cart:
            self._add_to_cart(item.item_id, recommendation_id)
            if buy < self._shopping.buy:  # at once; what stays in the cart may be bought at the end
                self._cart.pop()
                self._do("purchase", [self._priced(item.item_id)], recommendation_id)

    def _add_to_cart(self, item_id: str, recommendation_id: str | None) -> None:
        self._cart.append(item_id)
        self._do("add_to_cart", [self._priced(item_id)], recommendation_id)

    def _leave(self, buy: float, tell: float) -> None:
        self._gone = True
        if self._cart and buy < self._shopping.buy:
            self._do("purchase", [self._priced(item) for item in self._cart])
        if tell < self._shopping.session_end:
            self._do("session_end", [])

    def _priced(self, item_id: str) -> ShopperItem:
        role = self._tastes.role_of.get(item_id)
        return ShopperItem(item_id, None, None if role is None else self._tastes.items.prices[role])

    def _do(
        self, kind: str, items: list[ShopperItem], recommendation_id: str | None = None
    ) -> None:
        event_id = f"{self.session_id}-{self._made}"
        self._made += 1
        self._pending.append(
            ShopperEvent(
                SCHEMA_VERSION,
                event_id,
                kind,
                0,
                self.user_id,
                self.session_id,
                items,
                recommendation_id,
            )
        )
