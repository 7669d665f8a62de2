"""What a valid event is: one function, `decode`, that every job and test is held to.

Kafka value ─ decode ─┬─ Event          (canonical names, known types, sane times)
                      └─ InvalidEventError   (a reason without any text of the payload)
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Any

import msgspec

EVENT_TYPES = (
    "view_item_list",
    "select_item",
    "view_item",
    "add_to_cart",
    "remove_from_cart",
    "add_to_wishlist",
    "begin_checkout",
    "purchase",
    "search",
    "session_end",
    "recommendation_request",
)
"""Canonical event types (GA4 e-commerce names); an event's `type` is an index into this tuple."""

INTERACTIONS = ("select_item", "view_item", "add_to_cart", "add_to_wishlist", "purchase")
"""Event types whose items say what the user wants; only these form the sequence of a session."""

TYPE_ALIASES = {
    # Metarank, OTTO and everyday names
    "impression": "view_item_list",
    "click": "select_item",
    "view": "view_item",
    "cart": "add_to_cart",
    "like": "add_to_wishlist",
    "buy": "purchase",
    "order": "purchase",
    # Google Retail
    "category-page-view": "view_item_list",
    "detail-page-view": "view_item",
    "add-to-cart": "add_to_cart",
    "remove-from-cart": "remove_from_cart",
    "shopping-cart-page-view": "begin_checkout",
    "purchase-complete": "purchase",
    # Amazon Personalize
    "View": "view_item",
    "Click": "select_item",
    "AddToCart": "add_to_cart",
    "Purchase": "purchase",
    # Segment
    "Product List Viewed": "view_item_list",
    "Product Clicked": "select_item",
    "Product Viewed": "view_item",
    "Product Added": "add_to_cart",
    "Product Removed": "remove_from_cart",
    "Product Added to Wishlist": "add_to_wishlist",
    "Checkout Started": "begin_checkout",
    "Order Completed": "purchase",
    "Products Searched": "search",
    # Snowplow
    "list_view": "view_item_list",
    "list_click": "select_item",
    "product_view": "view_item",
    "checkout_step": "begin_checkout",
    "transaction": "purchase",
    # UBI (User Behavior Insights)
    "item_click": "select_item",
    "item_view": "view_item",
}
"""Other spellings of event types → canonical ones."""

FIELD_ALIASES = {
    "event_id": ("id", "eventId", "messageId"),
    "event_type": ("eventType", "event_name", "action_name", "type", "event"),
    "event_time": ("eventTime", "timestamp", "derived_tstamp"),
    "user_id": ("visitor_id", "visitorId", "userId", "user", "client_id", "domain_userid"),
    "session_id": ("sessionId", "session", "domain_sessionid"),
    "item_id": ("itemId", "item", "product_id", "object_id"),
    "items": ("products",),
    "recommendation_id": ("recommendationId", "attributionToken", "recommId", "query_id"),
}
"""Canonical field → other spellings, tried in order where the canonical one is absent."""

ITEM_FIELD_ALIASES = {"item_id": ("itemId", "id", "product_id", "object_id")}

TYPE_CODES = {name: code for code, name in enumerate(EVENT_TYPES)}
_CODE_OF_SPELLING = TYPE_CODES | {alias: TYPE_CODES[name] for alias, name in TYPE_ALIASES.items()}
INTERACTION_CODES = frozenset(TYPE_CODES[name] for name in INTERACTIONS)

MAX_BYTES = 1 << 20
MAX_ITEMS = 1_000
MAX_ID_LENGTH = 512
EARLIEST_MS = 946_684_800_000  # 2000-01-01T00:00:00Z
LATEST_MS = 253_402_300_799_999  # the end of the year 9999
MAX_AHEAD_MS = 600_000  # how far an event may lie ahead of the time Kafka received it
INT64_MAX = (1 << 63) - 1


class InvalidEventError(ValueError):
    """Why a record is not an event; the text holds no part of the payload."""


class Item(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """One item of an event: `price` in the shop's currency, None where it is not told."""

    item_id: str
    price: float | None = None


class Event(msgspec.Struct, array_like=True, gc=False, omit_defaults=True):
    """A decoded event as it travels through a window: `time` in epoch ms, `type` a code.

    `items` is filled only for INTERACTIONS: what was merely shown does not describe a session.
    """

    event_id: str
    type: int
    time: int
    items: list[Item] = []
    session_id: str | None = None
    list_id: str | None = None


Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class ItemFields(msgspec.Struct, gc=False):
    """The schema of one item of an event."""

    item_id: Identifier
    position: Whole | None = None
    price: Amount | None = None
    quantity: Whole | None = None


class EventFields(msgspec.Struct, gc=False):
    """The schema of `user-events` after aliases were resolved; other fields are let pass."""

    event_id: Identifier
    event_type: str
    event_time: int
    user_id: Identifier
    schema_version: Any = None
    session_id: Identifier | None = None
    items: Annotated[list[ItemFields], msgspec.Meta(max_length=MAX_ITEMS)] | None = None
    item_id: Identifier | None = None
    price: Amount | None = None
    quantity: Whole | None = None
    query: str | None = None
    list_id: Identifier | None = None
    recommendation_id: Identifier | None = None
    consent: Any = None
    context: dict[str, Any] | None = None


_parse = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_decode_window = msgspec.json.Decoder(list[Event]).decode
_long_number = re.compile(rb"\d{19}").search
_numeric_overflow = "a number is outside the range of 64-bit integers"


def decode(value: bytes | None, received_ms: int) -> tuple[str, Event]:
    """Return (user id, event) of one Kafka record, or raise `InvalidEventError` with the reason.

    `received_ms` is the record's Kafka timestamp in epoch ms: the only clock this rule knows.
    """
    code, fields = validate(value, received_ms)
    items = _items(fields) if code in INTERACTION_CODES else []
    return fields.user_id, Event(
        fields.event_id, code, fields.event_time, items, fields.session_id, fields.list_id
    )


def validate(value: bytes | None, received_ms: int) -> tuple[int, EventFields]:
    """The code of the event's type and all of its fields, or `InvalidEventError`; see `decode`."""
    fields = _validated(parse_object(value))
    code = _CODE_OF_SPELLING.get(fields.event_type)
    if code is None:
        raise InvalidEventError("event_type is not a known one")
    check_time(fields.event_time, received_ms)
    return code, fields


def check_time(event_time: int, received_ms: int) -> None:
    """Raise `InvalidEventError` where the time cannot be that of a record received then."""
    if event_time < EARLIEST_MS:
        raise InvalidEventError("event_time is before the year 2000 (expected epoch milliseconds)")
    if event_time > min(received_ms + MAX_AHEAD_MS, LATEST_MS):
        raise InvalidEventError("event_time is more than 10 minutes ahead of its Kafka timestamp")


def parse_object(value: bytes | None) -> dict[str, Any]:
    """The JSON object of a Kafka record, or `InvalidEventError`."""
    if value is None:
        raise InvalidEventError("value is null")
    if len(value) > MAX_BYTES:
        raise InvalidEventError("value is over 1 MiB")
    try:
        parsed = _parse(value)
    except RecursionError:
        raise InvalidEventError("JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidEventError("value is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise InvalidEventError(f"not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidEventError("value is not a JSON object")
    if _long_number(value) and _overflows(parsed):
        raise InvalidEventError(_numeric_overflow)
    return parsed


def _overflows(value: Any) -> bool:
    """Whether a number anywhere inside does not fit int64; only asked for suspicious records."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX:
            return True
    return False


def _validated(parsed: dict[str, Any]) -> EventFields:
    for name, aliases in FIELD_ALIASES.items():
        if name not in parsed:
            _rename(parsed, name, aliases)
    if isinstance(parsed.get("items"), list):
        for item in parsed["items"]:
            if isinstance(item, dict) and "item_id" not in item:
                _rename(item, "item_id", ITEM_FIELD_ALIASES["item_id"])
    try:
        return msgspec.convert(parsed, EventFields)
    except msgspec.ValidationError as error:
        raise InvalidEventError(str(error)) from None


def _rename(fields: dict[str, Any], name: str, aliases: tuple[str, ...]) -> None:
    for alias in aliases:
        if alias in fields:
            fields[name] = fields.pop(alias)
            return


def _items(fields: EventFields) -> list[Item]:
    if fields.items:
        return [Item(item.item_id, item.price) for item in fields.items]
    return [Item(fields.item_id, fields.price)] if fields.item_id is not None else []


def to_text(event: Event) -> str:
    """The event as compact JSON, the form in which it travels through Flink's windows."""
    return _encode(event).decode()


def window_from_text(text: str) -> list[Event]:
    """The events of a window from their compact JSON forms joined by commas, in arrival order."""
    return _decode_window(f"[{text}]")


def without_repeats(window: list[Event]) -> list[Event]:
    """The window without repeated event_ids; of each the first arrival stays."""
    first = {event.event_id: event for event in reversed(window)}
    if len(first) == len(window):
        return window
    return [event for event in window if first[event.event_id] is event]


def rfc3339(epoch_ms: int) -> str:
    """The time as CloudEvents wants it, for instance 2011-12-01T08:26:00.000Z."""
    moment = datetime.fromtimestamp(epoch_ms // 1000, timezone.utc)
    return f"{moment.isoformat()[:19]}.{epoch_ms % 1000:03d}Z"  # strftime takes 5 us more
