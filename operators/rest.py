"""Flink's REST: what it answers, as JSON."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def get(url: str) -> Any:
    """What Flink answers, for instance at http://127.0.0.1:8081/overview."""
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def send(method: str, url: str, body: object = None) -> Any:
    """What it answers to a POST or PATCH with a JSON body."""
    request = urllib.request.Request(
        url,
        json.dumps(body or {}).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)
