"""The event time that Flink reads out of a raw record is the one that the rule decodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.kafka import completed
from tests.malformed import malformed
from tests.shopping import START_MS, shopping
from udfs.events import (
    EARLIEST_MS,
    FIELD_ALIASES,
    MAX_AHEAD_MS,
    InvalidEventError,
    decode,
)

RECEIVED_MS = START_MS + 864_000_123  # ten days: after every event of the shoppers


def spellings() -> list[bytes]:
    """Events with their time under each name, at the bounds, twice, as text and with a fraction."""
    bounds = (EARLIEST_MS - 1, EARLIEST_MS, RECEIVED_MS + MAX_AHEAD_MS, RECEIVED_MS + 700_000)
    times = [{name: START_MS} for name in FIELD_ALIASES["event_time"]]
    times += [{"event_time": time} for time in (*bounds, 0, -1, 1 << 63, str(START_MS), 1.5, None)]
    times += [{"timestamp": 1, "event_time": START_MS}, {"context": {"event_time": 1}}]
    event = {"event_id": "e", "event_type": "view", "user_id": "u", "item_id": "i"}
    return [json.dumps(event | time).encode() for time in times]


def test_flink_and_the_rule_read_the_same_time_and_nothing_moves_it_far_ahead(
    tmp_path: Path,
) -> None:
    values = [record.value or b"" for record in shopping(1, 3, 100, ["a"])]
    values += [value or b"" for _, value in malformed() if len(value or b"") < 100_000]
    values += spellings()
    command = [sys.executable, "-m", "tests.operators.event_times", str(RECEIVED_MS)]
    done = completed(tmp_path, command, stdin="\n".join(value.hex() for value in values))
    assert done.returncode == 0, done.stderr[-4000:]
    times = json.loads(done.stdout.splitlines()[-1])
    compared = 0
    for value, time in zip(values, times, strict=True):
        assert EARLIEST_MS <= time <= RECEIVED_MS + MAX_AHEAD_MS + 1
        try:
            _, event = decode(value, RECEIVED_MS)
        except InvalidEventError:
            continue
        assert time == event.time, value
        compared += 1
    assert compared > 100
