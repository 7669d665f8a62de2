"""Records that are no events, of the kinds that real topics hold sooner or later."""

from __future__ import annotations

import json
from typing import Any

_EVENT = {
    "event_id": "malformed",
    "event_type": "add_to_cart",
    "event_time": 1_323_000_000_000,
    "user_id": "somebody",
    "item_id": "85123A",
}


def malformed() -> list[bytes | None]:
    """One value of each kind, the bytes as they are sent."""
    whole = json.dumps(_EVENT).encode()
    return [
        None,
        b"",
        whole[:-9],  # cut off on its way
        whole.replace(b"somebody", "café".encode("latin-1")),  # not UTF-8
        b"[" + whole + b"]",
        _but(user_id=None),
        _but(event_id=17),
        _but(event_time="2011-12-04T12:00:00Z"),
        _but(event_type="teleported"),
        _but(event_time=915_148_800_000),  # 1999
        _but(event_time=4_070_908_800_000),  # 2099
        whole[:-1] + b', "price": NaN}',
        _but(quantity=1 << 63),
        _but(price=-1),
        whole[:-1] + b', "context": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        _but(context={"page": "x" * (1 << 20)}),  # over 1 MiB
    ]


def _but(**changes: Any) -> bytes:
    return json.dumps(_EVENT | changes).encode()
