"""The shoppers in a thread, and the event that wakes the recommend job up before them."""

from __future__ import annotations

import json
import threading
import time

from jobs.demo.processes import DemoError
from jobs.demo.stream import Record
from jobs.demo.traffic import Sender
from jobs.loop import shop
from jobs.simulate.crowd import Clock
from jobs.simulate.live import LiveRun, SimulateError
from jobs.simulate.settings import crowd


class Traffic:
    """Runs the simulator beside the director; `crowd` counts what shoppers see and click."""

    def __init__(self, bootstrap: str) -> None:
        self.settings = shop.shoppers(bootstrap)
        self.crowd = crowd(self.settings, now_ms())
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: SimulateError | None = None

    def start(self) -> None:
        """Let them come; event time is that of this moment, and stands still between two days."""
        if self.crowd.sent == 0:
            self.crowd.clock = Clock(now_ms(), self.crowd.clock.step_ms)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="shoppers", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise DemoError if they could not go on."""
        if self._error is not None:
            raise DemoError(str(self._error)) from self._error

    def stop(self) -> None:
        """Let them end what they have decided on; returns when all of it was sent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            LiveRun(self.settings, self.crowd, self._stop).run(lambda seconds: None)
        except SimulateError as error:  # the main thread tells it
            self._error = error


def wake_up(bootstrap: str) -> None:
    """Send the first event, which asks for a list."""
    event = {
        "event_id": "wake-up",
        "event_type": "recommendation_request",
        "event_time": now_ms(),
        "user_id": "nobody",
    }
    sender = Sender(bootstrap)
    sender.send_all([Record(b"nobody", json.dumps(event).encode(), "answered", "wake-up")])
    sender.flush()


def now_ms() -> int:
    """Epoch milliseconds by the clock of this machine."""
    return time.time_ns() // 1_000_000
