"""Seeded mutants of valid events, as broken producers and networks make them.

Most are no events any more; which of them are is for `udfs.events.decode` to say.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes | None]

_STRANGE: tuple[Any, ...] = (
    *(None, True, False, "", " ", "\x00", "x" * 600, "\ud800", "null", "1e3"),
    *(-1, 0, 0.5, -0.0, 1e308, 2**31, 2**63, -(2**63) - 1, 10**30, 10**300),
    *([], {}, [None], [[[]]], {"a": {"b": []}}, [{"item_id": 7}], [{"item_id": "i"}] * 1001),
)


def mutants(seed: int, values: Iterable[bytes]) -> Iterator[bytes | None]:
    """One mutant of each value, by one to three mutations."""
    draw = random.Random(seed)
    for value in values:
        mutant: bytes | None = value
        for _ in range(draw.choice([1, 1, 2, 3])):
            mutant = draw.choice(_MUTATIONS)(draw, mutant) if mutant else mutant
        yield mutant


def _cut(draw: random.Random, value: bytes) -> bytes:
    return value[: draw.randrange(len(value))]


def _flip(draw: random.Random, value: bytes) -> bytes:
    at = draw.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << draw.randrange(8)]) + value[at + 1 :]


def _noise(draw: random.Random, value: bytes) -> bytes:
    at = draw.randrange(len(value))
    return value[:at] + draw.randbytes(draw.choice([1, 2, 8, 200])) + value[at:]


def _not_utf8(draw: random.Random, value: bytes) -> bytes:
    at = draw.randrange(len(value))
    return value[:at] + draw.choice([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"]) + value[at:]


def _repeat(draw: random.Random, value: bytes) -> bytes:
    low, high = sorted((draw.randrange(len(value)), draw.randrange(len(value))))
    return value[:high] + value[low:high] * draw.randrange(1, 4) + value[high:]


def _leave_out(draw: random.Random, value: bytes) -> bytes:
    low = draw.randrange(len(value))
    return value[:low] + value[low + draw.randrange(1, 40) :]


def _nest(draw: random.Random, value: bytes) -> bytes:
    depth = draw.choice([1, 10, 500, 5000])
    opening, closing = draw.choice([(b"[", b"]"), (b'{"context":', b"}")])
    return opening * depth + value + closing * depth


def _strange_value(draw: random.Random, value: bytes) -> bytes:
    try:
        event = json.loads(value)
        event[draw.choice(list(event))] = draw.choice(_STRANGE)
    except (ValueError, TypeError, IndexError, RecursionError):
        return _flip(draw, value)
    return json.dumps(event).encode()


def _lost_field(draw: random.Random, value: bytes) -> bytes:
    try:
        event = json.loads(value)
        del event[draw.choice(list(event))]
    except (ValueError, TypeError, IndexError, RecursionError):
        return _flip(draw, value)
    return json.dumps(event).encode()


def _nothing(draw: random.Random, value: bytes) -> bytes | None:
    return draw.choice([b"", None])


_MUTATIONS: tuple[Mutation, ...] = (
    *(_cut, _flip, _noise, _not_utf8, _repeat, _leave_out, _nest),
    *(_strange_value, _strange_value, _strange_value, _lost_field, _nothing),
)
