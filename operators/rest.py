"""Flink's REST: what it answers, as JSON."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from ssl import SSLContext
from typing import Any

from operators.tls import PLAIN, Tls


@dataclass(frozen=True)
class Rest:
    """The REST at an address (host:port), spoken to with TLS where there are certificates."""

    address: str
    tls: Tls = PLAIN

    def __str__(self) -> str:
        return f"{self.tls.scheme}://{self.address}"

    @cached_property
    def _context(self) -> SSLContext | None:
        return self.tls.context()

    def get(self, path: str) -> Any:
        """What Flink answers at a path, for instance /overview."""
        with urllib.request.urlopen(f"{self}{path}", timeout=5, context=self._context) as answer:
            return json.load(answer)

    def send(self, method: str, path: str, body: object = None) -> Any:
        """What it answers to a POST or PATCH with a JSON body."""
        request = urllib.request.Request(
            f"{self}{path}",
            json.dumps(body or {}).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
            return json.load(answer)
