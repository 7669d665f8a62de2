"""What users did with a list: lists and actions in, feedback messages out, no engine.

recommendations ─ decode_list ──────────────────────────────────────┐
user-events ─ decode_action ─┬─ names its list ──────────────────────┤
                             └─ names none ─ credit (newest list) ────┴─ revise, finish ─ messages

Actions are a set: neither repeats of an event_id nor the order of arrival change a label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from udfs.events import (
    MAX_ITEMS,
    TYPE_CODES,
    EventFields,
    Identifier,
    InvalidEventError,
    Whole,
    check_time,
    parse_object,
    rfc3339,
    validate,
)

SCHEMA_VERSION = 1
LABELS = ("impression", "click", "cart", "purchase")
"""What can happen to an item of a list; an action's `label` is an index into this tuple."""

LABEL_OF_TYPE = {"view_item_list": 0, "select_item": 1, "add_to_cart": 2, "purchase": 3}
_LABEL_OF_CODE = {TYPE_CODES[name]: label for name, label in LABEL_OF_TYPE.items()}
IMPRESSION, PURCHASE = 0, 3


class ListedItem(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    item_id: str
    position: int  # from 0
    propensity: float | None = None


class MadeList(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """A recommendation as it travels through Flink: what its feedback must tell of it."""

    recommendation_id: str
    user_id: str
    time: int  # of the trigger, epoch ms
    bundle_version: str
    items: list[ListedItem]
    experiment: dict[str, Any] | None = None


class ActionItem(msgspec.Struct, array_like=True, gc=False, omit_defaults=True, order=True):
    item_id: str
    value: float = 0.0  # price * quantity, of a purchase


class Action(msgspec.Struct, array_like=True, gc=False, omit_defaults=True, order=True):
    """What a user did with items of one list, as it travels through Flink.

    An impression without items is one of the whole list.
    """

    event_id: str
    label: int
    time: int  # epoch ms
    items: list[ActionItem] = []
    guessed: bool = False  # it did not name its list


class Label(msgspec.Struct, gc=False):
    impression: bool
    click: bool
    cart: bool
    purchase: bool


class Feedback(msgspec.Struct, gc=False):
    """The message on `feedback`; the fields of the published schema, in its order.

    `revision` counts the actions it rests on: of two records of an item the larger one is newer.
    """

    schema_version: int
    recommendation_id: str
    item_id: str
    position: int
    user_id: str
    label: Label
    value: float
    shown_at: int | None
    acted_at: int | None
    label_delay_ms: int | None
    attribution: Literal["exact", "item_window", "none"]
    propensity: float | None
    bundle_version: str
    experiment: dict[str, Any] | None
    final: bool
    revision: int


class Told(msgspec.Struct, gc=False):
    """One message with what its headers need."""

    identity: str  # recommendation_id:item_id:revision, or :final
    time: str  # RFC 3339, of the first action, else of the first impression
    value: str  # the JSON


@dataclass(slots=True)
class Tally:
    """What one action came to; of a repeated one nothing is counted again."""

    exposures: int = 0
    joined: int = 0  # exposures whose list was found
    revisions: int = 0
    not_in_list: int = 0  # items that the list does not hold


@dataclass(slots=True)
class Outcome:
    """What is known of one item of a list."""

    labels: list[bool] = field(default_factory=lambda: [False] * len(LABELS))
    value: float = 0.0
    shown_at: int | None = None
    acted_at: int | None = None
    exact: bool = False
    actions: int = 0

    def add(self, action: Action, value: float) -> None:
        """Take in one action on the item that is not known yet."""
        self.actions += 1
        self.labels[action.label] = True
        if action.label == IMPRESSION:
            self.shown_at = (
                action.time if self.shown_at is None else min(self.shown_at, action.time)
            )
            return
        self.acted_at = action.time if self.acted_at is None else min(self.acted_at, action.time)
        self.exact |= not action.guessed
        self.value += value


_encode = msgspec.json.Encoder().encode
_read_list = msgspec.json.Decoder(MadeList).decode
_read_lists = msgspec.json.Decoder(list[MadeList]).decode
_read_action = msgspec.json.Decoder(Action).decode
_read_actions = msgspec.json.Decoder(list[Action]).decode


def decode_action(value: bytes | None, received_ms: int) -> tuple[str, str | None, str | None]:
    """(user id, recommendation_id, action's text) of a user event; no text if it is no feedback.

    An impression is feedback if it names its list, an action if it names an item. Raises
    `InvalidEventError`.
    """
    code, fields = validate(value, received_ms)
    label = _LABEL_OF_CODE.get(code)
    if label is None:
        return fields.user_id, None, None
    items = _action_items(fields, label)
    if not (fields.recommendation_id if label == IMPRESSION else items):
        return fields.user_id, None, None
    action = Action(fields.event_id, label, fields.event_time, items)
    return fields.user_id, fields.recommendation_id, to_text(action)


def _action_items(fields: EventFields, label: int) -> list[ActionItem]:
    """Each item of the event once, with what was paid for it in all."""
    rows = [(item.item_id, item.price, item.quantity) for item in fields.items or []]
    if not rows and fields.item_id is not None:
        rows = [(fields.item_id, fields.price, fields.quantity)]
    values: dict[str, float] = defaultdict(float)
    for item_id, price, quantity in rows:
        paid = (price or 0.0) * (1 if quantity is None else quantity)
        values[item_id] += paid if label == PURCHASE else 0.0
    return [ActionItem(item_id, value) for item_id, value in values.items()]


class _ListedFields(msgspec.Struct, gc=False):
    item_id: Identifier
    position: Whole | None = None
    propensity: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class _ListFields(msgspec.Struct, gc=False):
    """What feedback needs of a message on `recommendations`; other fields are let pass."""

    recommendation_id: Identifier
    user_id: Identifier
    event_time: int
    items: Annotated[list[_ListedFields], msgspec.Meta(max_length=MAX_ITEMS)]
    bundle_version: Identifier
    experiment: dict[str, Any] | None = None


def decode_list(value: bytes | None, received_ms: int) -> tuple[str, str, str]:
    """(user id, recommendation_id, list's text) of a recommendation; or `InvalidEventError`."""
    try:
        fields = msgspec.convert(parse_object(value), _ListFields)
    except msgspec.ValidationError as error:
        raise InvalidEventError(str(error)) from None
    check_time(fields.event_time, received_ms)
    items: dict[str, ListedItem] = {}  # an item that is listed twice counts where it is first
    for index, item in enumerate(fields.items):
        position = index if item.position is None else item.position
        items.setdefault(item.item_id, ListedItem(item.item_id, position, item.propensity))
    made = MadeList(
        fields.recommendation_id,
        fields.user_id,
        fields.event_time,
        fields.bundle_version,
        list(items.values()),
        fields.experiment,
    )
    return fields.user_id, fields.recommendation_id, to_text(made)


def to_text(value: MadeList | Action) -> str:
    """The list or action as compact JSON, the form in which it travels through Flink."""
    return _encode(value).decode()


def credit(lists: str, action: str, horizon_ms: int) -> list[tuple[str, str]]:
    """Whose an action is that names no list: (recommendation_id, action's text) a list.

    Each item goes to the newest of the user's `lists` (texts joined by commas) that holds it and
    was made before the action, at most `horizon_ms` before; of two made at once to the greater id.
    """
    acted = _read_action(action)
    made = [
        (one.time, one.recommendation_id, {item.item_id for item in one.items})
        for one in _read_lists(f"[{lists}]")
        if 0 < acted.time - one.time <= horizon_ms
    ]
    credited: dict[str, list[ActionItem]] = defaultdict(list)
    for item in acted.items:
        holding = [(time, identity) for time, identity, items in made if item.item_id in items]
        if holding:
            credited[max(holding)[1]].append(item)
    return [
        (identity, to_text(Action(acted.event_id, acted.label, acted.time, items, guessed=True)))
        for identity, items in credited.items()
    ]


def outcomes(made: MadeList, actions: Iterable[Action]) -> dict[str, Outcome]:
    """What is known of each item of the list, in the list's order, by the actions as a set."""
    known = {item.item_id: Outcome() for item in made.items}
    whole = [ActionItem(item_id) for item_id in known]
    distinct = {action.event_id: action for action in sorted(actions, reverse=True)}
    for action in distinct.values():
        for item in action.items or whole:
            if item.item_id in known:
                known[item.item_id].add(action, item.value)
    return known


def revise(made: str | None, actions: str, is_open: bool) -> tuple[list[Told], Tally]:
    """What the newest of a list's actions (texts joined by commas, in order of arrival) changes.

    Told is each item that was acted on and whose label or value changes: what was merely shown
    waits for its final record. Nothing is told where the list was not found (None) or is closed.
    """
    arrived = _read_actions(f"[{actions}]")
    newest = arrived[-1]
    repeated = any(action.event_id == newest.event_id for action in arrived[:-1])
    exposure = int(newest.label == IMPRESSION and not repeated)
    tally = Tally(exposures=exposure, joined=exposure if made else 0)
    if made is None or not is_open:
        return [], tally
    shown = _read_list(made)
    after, before = outcomes(shown, arrived), outcomes(shown, arrived[:-1])
    told = [
        _told(shown, item, after[item.item_id], final=False)
        for item in shown.items
        if after[item.item_id].acted_at is not None
        and _label(after[item.item_id]) != _label(before[item.item_id])
    ]
    tally.revisions = len(told)
    if not repeated:
        tally.not_in_list = sum(item.item_id not in after for item in newest.items)
    return told, tally


def finish(made: str, actions: str) -> list[Told]:
    """The final record of each item that was shown or acted on, by all actions of the list."""
    shown = _read_list(made)
    known = outcomes(shown, _read_actions(f"[{actions}]"))
    return [
        _told(shown, item, known[item.item_id], final=True)
        for item in shown.items
        if known[item.item_id].actions
    ]


def _label(outcome: Outcome) -> tuple[list[bool], float]:
    return outcome.labels, outcome.value


def _told(made: MadeList, item: ListedItem, known: Outcome, *, final: bool) -> Told:
    acted_at, shown_at = known.acted_at, known.shown_at
    since = made.time if shown_at is None else shown_at
    message = Feedback(
        schema_version=SCHEMA_VERSION,
        recommendation_id=made.recommendation_id,
        item_id=item.item_id,
        position=item.position,
        user_id=made.user_id,
        label=Label(*known.labels),
        value=known.value,
        shown_at=shown_at,
        acted_at=acted_at,
        label_delay_ms=None if acted_at is None else acted_at - since,
        attribution="none" if acted_at is None else "exact" if known.exact else "item_window",
        propensity=item.propensity,
        bundle_version=made.bundle_version,
        experiment=made.experiment,
        final=final,
        revision=known.actions,
    )
    identity = f"{made.recommendation_id}:{item.item_id}:{'final' if final else known.actions}"
    moment = since if acted_at is None else acted_at
    return Told(identity, rfc3339(moment), _encode(message).decode())
