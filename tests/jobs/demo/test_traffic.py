"""Records go out at their times."""

from __future__ import annotations

import pytest

from jobs.demo.stream import (
    Record,
)
from jobs.demo.traffic import Sender


class Clock:
    """A clock that stands still unless it is waited on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


class Recording(Sender):
    def __init__(self, clock: Clock) -> None:
        self._clock, self.clock, self.times = clock, clock, []

    def send(self, record: Record, due: float) -> None:
        self.times.append((due - 100, self.clock.now - 100))
        if len(self.times) == 2:
            self.clock.now += 1.0  # a long pause: what is late goes out at once


def test_a_pause_delays_no_later_event_and_counts_as_latency() -> None:
    clock = Clock()
    sender = Recording(clock)
    sender.send_paced([Record(b"u", b"{}", "answered")] * 4, 10, clock)  # type: ignore[arg-type]
    due, sent = zip(*sender.times, strict=True)
    assert due == pytest.approx((0, 0.1, 0.2, 0.3))
    assert sent == pytest.approx((0, 0.1, 1.1, 1.1))
