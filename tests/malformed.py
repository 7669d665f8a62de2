"""A corpus of records that are no events: at least 200, each different, each named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

NOW_MS = 1_700_000_000_000


def good(**changes: Any) -> dict[str, Any]:
    """A valid event; a change to `...` leaves the field out."""
    event = {
        "event_id": "e-1",
        "event_type": "view_item",
        "event_time": NOW_MS,
        "user_id": "u-1",
        "session_id": "s-1",
        "items": [{"item_id": "i-1", "price": 2.5, "quantity": 1, "position": 0}],
    } | changes
    return {name: value for name, value in event.items() if value is not ...}


def as_bytes(event: Any) -> bytes:
    """The event as its producer would write it."""
    return json.dumps(event, allow_nan=True).encode()


def malformed() -> Iterator[tuple[str, bytes | None]]:
    """(name, value) of every record of the corpus."""
    yield "null value", None
    yield from _broken_text()
    yield from _wrong_types()
    yield from _wrong_values()
    yield from _extremes()


def _broken_text() -> Iterator[tuple[str, bytes]]:
    whole = as_bytes(good())
    for length in range(0, len(whole), 3):
        yield f"cut after {length} bytes", whole[:length]
    for place in range(1, len(whole), 9):
        yield f"0xff at {place}", whole[:place] + b"\xff" + whole[place:]
    yield from {
        "blank": b" ",
        "word": b"hello",
        "array": b"[]",
        "array of events": b"[" + whole + b"]",
        "string": b'"event"',
        "number": b"17",
        "true": b"true",
        "null literal": b"null",
        "two objects": whole + whole,
        "trailing comma": whole[:-1] + b",}",
        "single quotes": whole.replace(b'"', b"'"),
        "no quotes": whole.replace(b'"', b""),
        "comment": b"/* event */" + whole,
        "byte order mark": b"\xef\xbb\xbf" + whole,
        "utf-16": whole.decode().encode("utf-16"),
        "utf-32": whole.decode().encode("utf-32"),
        "latin-1": whole.replace(b"u-1", "ü".encode("latin-1")),
        "overlong": whole.replace(b"u-1", b"\xc0\xaf"),
        "surrogate bytes": whole.replace(b"u-1", b"\xed\xa0\x80"),
        "lone surrogate": whole.replace(b"u-1", b"\\ud800"),
        "control character": whole.replace(b"u-1", b"u\x001"),
        "avro magic": b"\x00\x00\x00\x00\x01" + whole,
        "gzip": b"\x1f\x8b\x08\x00" + whole,
        "zeros": b"\x00" * 100,
        "csv": b"e-1,view_item,1700000000000,u-1",
        "xml": b"<event id='e-1'/>",
        "bad escape": whole.replace(b"u-1", b"\\x41"),
    }.items()


def _wrong_types() -> Iterator[tuple[str, bytes]]:
    strings = ("event_id", "event_type", "user_id")
    for field in strings:
        for value in (..., None, 7, 1.5, True, [], ["a"], {}, {"a": 1}, ""):
            yield f"{field} = {value!r}", as_bytes(good(**{field: value}))
    for field in ("session_id", "list_id", "recommendation_id", "item_id"):
        for value in (7, False, [], {}, ""):
            yield f"{field} = {value!r}", as_bytes(good(**{field: value}))
    for value in (..., None, "1700000000000", "2023-11-14T22:13:20Z", 1.7e12 + 0.5, True, [], {}):
        yield f"event_time = {value!r}", as_bytes(good(event_time=value))
    for value in ("i-1", 7, {}, [7], ["i-1"], [None], [[]], [{}], [{"item_id": 7}]):
        yield f"items = {value!r}", as_bytes(good(items=value))
    for field, values in {
        "price": ("2.5", -0.01, True, [], {}),
        "quantity": ("1", -1, 1.5, [], True),
        "position": ("0", -1, 0.5, {}),
        "item_id": (None, 7, "", [], "i" * 513),
    }.items():
        for value in values:
            item = {"item_id": "i-1", field: value}
            yield f"items[0].{field} = {value!r}", as_bytes(good(items=[item]))
    for value in (7, [], {}):
        yield f"query = {value!r}", as_bytes(good(query=value))
    for value in (7, [], "x"):
        yield f"context = {value!r}", as_bytes(good(context=value))


def _wrong_values() -> Iterator[tuple[str, bytes]]:
    times = {
        "zero": 0,
        "negative": -1,
        "seconds": NOW_MS // 1000,
        "just before 2000": 946_684_799_999,
        "microseconds": NOW_MS * 1000,
        "nanoseconds": NOW_MS * 1_000_000,
        "2099": 4_070_908_800_000,
        "int64 max": 2**63 - 1,
        "int64 min": -(2**63),
    }
    for name, value in times.items():
        yield f"time: {name}", as_bytes(good(event_time=value))
    for name in ("unknown", "VIEW_ITEM", "view item", " view_item", "view_item\n", "a" * 600):
        yield f"event_type {name[:20]!r}", as_bytes(good(event_type=name))
    for field in ("event_id", "user_id", "session_id"):
        yield f"{field} too long", as_bytes(good(**{field: "x" * 513}))
    yield "too many items", as_bytes(good(items=[{"item_id": "i"}] * 1001))


def _extremes() -> Iterator[tuple[str, bytes]]:
    whole = as_bytes(good())
    for name, text in {"NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity"}.items():
        for field in ("price", "event_time", "extra"):
            yield f"{field} {name}", whole[:-1] + f', "{field}": {text}}}'.encode()
    for number in (2**63, 2**64, -(2**63) - 1, 10**30, 10**400):
        for field in ("price", "quantity", "event_time", "extra"):
            yield f"{field} = {str(number)[:22]}", whole[:-1] + f', "{field}": {number}}}'.encode()
        yield f"deep {str(number)[:22]}", as_bytes(good(context={"a": [{"b": number}]}))
    yield "1e999", whole[:-1] + b', "price": 1e999}'
    for depth in (10_000, 100_000):
        yield f"arrays nested {depth}", b"[" * depth + b"]" * depth
        yield f"objects nested {depth}", b'{"a":' * depth + b"1" + b"}" * depth
        context = b"[" * depth + b"]" * depth
        yield f"context nested {depth}", whole[:-1] + b', "context": {"a": ' + context + b"}}"
    for size in ((1 << 20) + 1, 2 << 20):
        padded = good(query="x" * (size - len(as_bytes(good(query="")))))
        yield f"{size} bytes", as_bytes(padded)
    yield "3 MiB of noise", bytes(range(256)) * (12 << 10)
