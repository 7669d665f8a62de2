"""One run of the demo between started services: warm up, replay, settle, judge, keep."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.demo.closing import tell
from jobs.demo.data import WARM_UP_PREFIX, DemoData
from jobs.demo.display import Screen, summary
from jobs.demo.processes import DemoError, FlinkJob
from jobs.demo.score import Score, Shown, misfits, missing_values
from jobs.demo.services import Services
from jobs.demo.traffic import RankedMessage, Reader, Sender, sizes
from operators.accounting import OUTCOMES
from operators.connection import Connection
from operators.dead_letters import DeadLetter, read

TOPICS = {"user-events": 4, "recommendations": 4, "dead-letters": 1}
FIRST_LIST_SECONDS = 180.0
SETTLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Choices:
    """The options of the command."""

    as_json: bool
    keep: bool
    seconds: float
    rate: float
    profile: str
    bundle: Path

    @property
    def size(self) -> int:
        """How many records are replayed."""
        return round(self.seconds * self.rate)


class DemoRun:
    """Holds what the reader's thread writes and the main thread shows."""

    def __init__(
        self,
        say: Console,
        choices: Choices,
        services: Services,
        job: FlinkJob,
        data: DemoData,
        began: float,
    ) -> None:
        self.say, self.choices, self.data = say, choices, data
        self.services, self.job = services, job
        self.began = began  # of the command, on time.perf_counter
        self.score = Score({r.event_id: r for r in data.records if r.outcome == "answered"})
        self.warm: set[str] = set()
        self.first_list_s: float | None = None
        self.newest: dict[bool, Shown] = {}  # of the known shop, of the other one
        self.strangers: deque[RankedMessage] = deque(maxlen=100)  # lists for others' events
        bootstrap = services.broker.bootstrap
        self.sender = Sender(bootstrap)
        self.reader = Reader(bootstrap, TOPICS["recommendations"], self._arrived)

    def run(self) -> int:
        """The whole course; returns the exit code."""
        sys.setswitchinterval(0.0005)  # the reader's clock should not wait for the drawing
        self.reader.start()
        try:
            self._warm_up()
            self._replay()
            result = self._judge()
            tell(self.say, result, summary(result), self.choices.as_json)
            if self.choices.keep:
                self._keep()
            return 1 if result["misfits"] else 0
        finally:
            self.reader.stop()

    def _arrived(self, message: RankedMessage, now: float) -> None:
        if self.first_list_s is None:
            self.first_list_s = now - self.began
        if message.user_id.startswith(WARM_UP_PREFIX):
            self.warm.add(message.trigger_event_id)
            return
        due = self.sender.due.get(message.trigger_event_id)
        if due is None:
            self.strangers.append(message)
            return
        items = [item.item_id for item in message.items]
        reasons = [item.reasons[-1] if item.reasons else "" for item in message.items]
        shown = self.score.add(
            message.trigger_event_id, items, reasons, message.served_by, now - due
        )
        if shown is not None and shown.record.visit is not None:
            self.newest[shown.record.visit.known] = shown

    def _warm_up(self) -> None:
        records = self.data.warm_up
        self.sender.send_all(records)
        self.sender.flush()
        self.say.print(f"Sent {len(records)} events to warm the job up; waiting for its lists …")
        wanted = {record.event_id for record in records if record.outcome == "answered"}
        if not self._wait(lambda: bool(self.warm), FIRST_LIST_SECONDS, starting=True):
            raise DemoError(
                f"no list came within {FIRST_LIST_SECONDS:.0f} s.\n{self.job.last_words()}"
            )
        self.say.print(f"The first list came {self.first_list_s:.1f} s after the command began.")
        if not self._wait(lambda: wanted <= self.warm, SETTLE_SECONDS):
            missing = len(wanted - self.warm)
            raise DemoError(f"{missing} of {len(wanted)} lists of the warm-up never came.")

    def _replay(self) -> None:
        records, rate = self.data.records, self.choices.rate
        self.say.print(
            f"Replaying {len(records):,} records at {rate:.0f} a second: baskets of December "
            "2011 and the sessions of another shop; some are malformed, some are sent twice."
        )
        stop = threading.Event()
        sending = threading.Thread(
            target=self.sender.send_paced, args=(records, rate, stop), name="sender", daemon=True
        )
        before, began = self.sender.sent, time.perf_counter()
        sending.start()
        with Screen(self.say, self.score, self.data.titles, len(records)) as screen:
            try:
                while sending.is_alive():
                    sending.join(0.25)
                    self._check()
                    sent = self.sender.sent - before
                    screen.update(sent, time.perf_counter() - began, self.newest)
            finally:
                stop.set()
        self.sender.flush()

    def _judge(self) -> dict[str, Any]:
        """Wait until every record has met its outcome, then compare what everybody counted."""
        sent, bootstrap = self.data.expected, self.services.broker.bootstrap
        counters: dict[str, int] = {}
        found: list[str] = []

        def settled() -> bool:
            counters.update(self.job.counters())
            found[:] = misfits(sent, counters, sizes(bootstrap, TOPICS))
            return not found and self.score.lists == len(self.score.records)

        self._wait(settled, SETTLE_SECONDS)
        letters = list(read(Connection(bootstrap=bootstrap), "dead-letters"))
        found += self._unanswered() + self._changed(letters)
        reasons = Counter(letter.origin.get("reason", "") for letter in letters)
        return self._result(counters) | {
            "dead_letter_reasons": dict(reasons.most_common()),
            "misfits": found,
        }

    def _result(self, counters: dict[str, int]) -> dict[str, Any]:
        score = self.score
        return {
            **{name: counters.get(name, 0) for name in ("consumed", *OUTCOMES)},
            "p50_ms": round(score.percentile(50), 2),
            "p95_ms": round(score.percentile(95), 2),
            "p99_ms": round(score.percentile(99), 2),
            "seconds_to_first_list": round(self.first_list_s or 0.0, 2),
            "hit_rate": round(score.hit_rate, 4),
            "hit_rate_popularity": round(score.hit_rate_popularity, 4),
            "judged": score.judged,
            "measured_lists": score.lists,
            "warm_up_events": len(self.data.warm_up),
            "other_shop_lists": score.other_shop,
            "served_by": dict(score.served_by),
            "profile": self.choices.profile,
            "bundle_version": self.data.bundle_version,
        }

    def _unanswered(self) -> list[str]:
        """Lists that never came, and lists that came twice, as sentences."""
        missing = len(self.score.records) - self.score.lists
        found = [f"{missing} events that ask for a list got none"] if missing else []
        if self.score.repeated:
            found.append(f"{self.score.repeated} events got a list more than once")
        return found

    def _changed(self, letters: list[DeadLetter]) -> list[str]:
        sent = (r.value for r in self.data.records if r.outcome == "dead_letters")
        missing = missing_values(sent, (letter.value for letter in letters))
        return [f"{missing} malformed records are not on dead-letters as sent"] if missing else []

    def _keep(self) -> None:
        """Stay until Ctrl-C; show the lists of events that somebody else writes."""
        self.say.print(keep_hints(self.services.broker.bootstrap), markup=False, soft_wrap=True)
        self.strangers.clear()
        try:
            while True:
                self._check()
                while self.strangers:
                    message = self.strangers.popleft()
                    best = message.items[0].item_id if message.items else "nothing"
                    self.say.print(
                        f"a list of {len(message.items)} for {message.user_id}, served by "
                        f"{message.served_by}; first: {self.data.titles.get(best, best)}",
                        markup=False,
                    )
                time.sleep(0.25)
        except KeyboardInterrupt:
            self.say.print("Stopping …")

    def _check(self) -> None:
        self.services.check()
        for error in (self.reader.error, self.sender.error):
            if error is not None:
                raise DemoError(f"the demo lost its connection: {error}") from error

    def _wait(self, done: Callable[[], bool], seconds: float, starting: bool = False) -> bool:
        """Whether `done` came true within `seconds`; raises if a service ends meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if done():
                return True
            self._check()
            if starting:
                self.job.check_start()
            time.sleep(0.2)
        return False


def keep_hints(bootstrap: str) -> str:
    """How to write an event and read the lists while the demo is kept running."""
    event = (
        """{"event_id":"'$(date +%s%N)'","event_type":"add_to_cart","""
        """"event_time":'$(date +%s%3N)',"user_id":"alice","item_id":"85123A"}"""
    )
    return rf"""
Broker and job go on until Ctrl-C. From another terminal, with kcat:
  kcat -C -b {bootstrap} -t recommendations -o end -q -u -f '%k %s\n'
  echo 'alice|{event}' | kcat -P -b {bootstrap} -t user-events -K '|'
or with Kafka's console tools:
  kafka-console-consumer.sh --bootstrap-server {bootstrap} --topic recommendations
  echo 'alice|{event}' | kafka-console-producer.sh --bootstrap-server {bootstrap} """ + (
        rf"""--topic user-events --property parse.key=true --property 'key.separator=|'
What was refused, and why:
  .venv/bin/python -m jobs dead-letters --set bootstrap={bootstrap} reasons
"""
    )
