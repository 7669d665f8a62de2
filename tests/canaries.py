"""Words that may stand in no log, metric, answer of Flink's REST or reason of a dead letter.

The shoppers of the tests and the passwords of their brokers begin with one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.kafka import Record

CANARY = "canary-"
USER = f"{CANARY}user"  # how the ids of shoppers begin
_IDS = re.compile(r'"(?:jid|id|vertex-id)"\s*:\s*"([0-9a-f]{32})"')
_OF_ALL = (
    *("overview", "config", "jobs", "jobs/overview", "taskmanagers"),
    *(
        "jobmanager/config",
        "jobmanager/environment",
        "jobmanager/metrics",
        "jobmanager/thread-dump",
    ),
)
_OF_A_JOB = (
    *("", "/plan", "/config", "/exceptions", "/checkpoints", "/checkpoints/config", "/metrics"),
    *("/accumulators", "/jobmanager/config", "/jobmanager/environment"),
)
_OF_A_TASK = ("", "/metrics", "/subtasks/metrics", "/accumulators")


def shown(rest: str) -> dict[str, str]:
    """Everything that Flink's REST says of itself, its jobs and their tasks, by address."""
    addresses = [f"{rest}/{path}" for path in _OF_ALL]
    for job in _IDS.findall(_fetched(f"{rest}/jobs")):
        addresses += [f"{rest}/jobs/{job}{path}" for path in _OF_A_JOB]
        tasks = _IDS.findall(_fetched(f"{rest}/jobs/{job}/plan"))
        addresses += [f"{rest}/jobs/{job}/vertices/{t}{path}" for t in tasks for path in _OF_A_TASK]
    return {address: _fetched(address) for address in addresses}


def sung(texts: Iterable[str]) -> list[str]:
    """Lines of the texts that hold a canary, as far as they need be shown."""
    return [line[:400] for text in texts for line in text.splitlines() if CANARY in line]


def screens_and_logs(folder: Path) -> Iterator[str]:
    """What was logged, or written to a screen, below a folder."""
    for path in folder.rglob("*"):
        if path.suffix in (".log", ".out", ".err") and path.is_file():
            yield path.read_text("utf-8", "replace")


def reasons(dead_letters: Iterable[Record]) -> list[str]:
    """Why records became dead letters."""
    return [
        (value or b"").decode()
        for record in dead_letters
        for name, value in record.headers
        if name.endswith("reason")
    ]


def _fetched(address: str) -> str:
    try:
        with urlopen(address, timeout=30) as answer:
            return str(answer.read().decode("utf-8", "replace"))
    except HTTPError as refusal:  # what it says then counts too
        return refusal.read().decode("utf-8", "replace")
