from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.malformed import NOW_MS, as_bytes, good, malformed
from udfs.events import (
    EVENT_TYPES,
    FIELD_ALIASES,
    INTERACTIONS,
    TYPE_ALIASES,
    TYPE_CODES,
    Event,
    InvalidEventError,
    Item,
    decode,
    rfc3339,
    to_text,
    window_from_text,
    without_repeats,
)


def test_an_event_is_decoded_with_its_items_and_session() -> None:
    user, event = decode(as_bytes(good()), NOW_MS)
    assert user == "u-1"
    assert event == Event("e-1", TYPE_CODES["view_item"], NOW_MS, [Item("i-1", 2.5)], "s-1", None)


def test_a_single_item_id_counts_as_one_item() -> None:
    _, event = decode(as_bytes(good(items=..., item_id="i-9", price=3.0)), NOW_MS)
    assert event.items == [Item("i-9", 3.0)]


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_every_canonical_type_is_known(name: str) -> None:
    _, event = decode(as_bytes(good(event_type=name)), NOW_MS)
    assert EVENT_TYPES[event.type] == name
    assert bool(event.items) == (name in INTERACTIONS)


@pytest.mark.parametrize("alias", TYPE_ALIASES)
def test_every_alias_of_a_type_is_known(alias: str) -> None:
    _, event = decode(as_bytes(good(event_type=alias)), NOW_MS)
    assert EVENT_TYPES[event.type] == TYPE_ALIASES[alias]


@pytest.mark.parametrize(
    ("field", "alias"), [(name, a) for name, aliases in FIELD_ALIASES.items() for a in aliases]
)
def test_every_alias_of_a_field_is_read(field: str, alias: str) -> None:
    event = good(item_id="i-1", items=...) if field == "item_id" else good(recommendation_id="r")
    expected = decode(as_bytes(event), NOW_MS)
    event[alias] = event.pop(field)
    assert decode(as_bytes(event), NOW_MS) == expected


@pytest.mark.parametrize(("name", "value"), list(malformed()), ids=lambda part: str(part)[:40])
def test_the_malformed_corpus_is_refused(name: str, value: bytes | None) -> None:
    with pytest.raises(InvalidEventError) as refusal:
        decode(value, NOW_MS)
    assert 0 < len(str(refusal.value)) <= 200


def test_the_corpus_holds_over_200_different_records() -> None:
    corpus = dict(malformed())
    assert len(set(corpus.values())) >= 200


@pytest.mark.parametrize("secret", ["4111-1111-1111-1111", "jane@example.org"])
def test_a_reason_holds_no_text_of_the_payload(secret: str) -> None:
    events: list[Any] = [
        good(event_type=secret),
        good(event_id=[secret]),
        good(items=[{"item_id": {secret: secret}}]),
        good(context=secret),
        good(**{secret: 2**63}),
        secret,
    ]
    for event in events:
        with pytest.raises(InvalidEventError) as refusal:
            decode(as_bytes(event), NOW_MS)
        assert secret not in str(refusal.value)
    with pytest.raises(InvalidEventError) as refusal:
        decode(secret.encode(), NOW_MS)
    assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    ("time", "received", "valid"),
    [
        (946_684_800_000, NOW_MS, True),
        (946_684_799_999, NOW_MS, False),
        (NOW_MS + 600_000, NOW_MS, True),
        (NOW_MS + 600_001, NOW_MS, False),
        (253_402_300_799_999, 2**62, True),
        (253_402_300_800_000, 2**62, False),
    ],
)
def test_the_bounds_of_time_are_exact(time: int, received: int, valid: bool) -> None:
    value = as_bytes(good(event_time=time))
    if valid:
        assert decode(value, received)[1].time == time
    else:
        with pytest.raises(InvalidEventError, match="event_time"):
            decode(value, received)


def test_a_record_of_exactly_one_mebibyte_is_accepted() -> None:
    padding = (1 << 20) - len(as_bytes(good(query="")))
    value = as_bytes(good(query="x" * padding))
    assert len(value) == 1 << 20
    assert decode(value, NOW_MS)[0] == "u-1"


def test_long_digits_inside_a_text_are_no_overflow() -> None:
    assert decode(as_bytes(good(user_id="9" * 25)), NOW_MS)[0] == "9" * 25


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_an_event_or_refused(value: bytes) -> None:
    with suppress(InvalidEventError):
        user, event = decode(value, NOW_MS)
        assert user
        assert event.event_id


@given(st.dictionaries(st.sampled_from([*good(), "item_id", "context", "timestamp"]), json_values))
def test_whatever_a_field_holds_it_is_an_event_or_refused(changes: dict[str, Any]) -> None:
    try:
        user, event = decode(json.dumps(good() | changes).encode(), NOW_MS)
    except InvalidEventError:
        return
    assert user
    assert 946_684_800_000 <= event.time <= NOW_MS + 600_000


texts = st.text(min_size=1, max_size=20)
items = st.lists(st.builds(Item, texts, st.none() | st.floats(0, 1e9)), max_size=3)
events = st.builds(
    Event,
    texts,
    st.integers(0, len(EVENT_TYPES) - 1),
    st.integers(946_684_800_000, NOW_MS),
    items,
    st.none() | texts,
    st.none() | texts,
)


@given(st.lists(events, max_size=5))
def test_a_window_of_compact_texts_gives_the_events_back(window: list[Event]) -> None:
    assert window_from_text(",".join(map(to_text, window))) == window


@given(st.lists(events, max_size=8))
def test_of_repeated_events_the_first_stays(window: list[Event]) -> None:
    kept = without_repeats(window)
    assert [e.event_id for e in kept] == list(dict.fromkeys(e.event_id for e in window))
    assert all(any(e is other for other in window) for e in kept)


def test_rfc3339_has_milliseconds_and_utc() -> None:
    assert rfc3339(1_322_728_000_007) == "2011-12-01T08:26:40.007Z"
