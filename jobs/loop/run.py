"""One run of the loop, scene by scene; each waits for what the one before it brought about."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console

from jobs.demo.processes import DemoError, FlinkJob, Job
from jobs.demo.services import Services
from jobs.demo.traffic import sizes
from jobs.loop import shop
from jobs.loop.display import Screen, Story
from jobs.loop.result import Closed
from jobs.loop.traffic import Traffic, now_ms, wake_up
from models.history import Decision
from models.registry import Registry

PATIENCE_S = 300.0  # for each thing that is waited for
LOOK_S = 2.0  # between two looks at topics and counters
SESSIONS_BEFORE = 190  # closed ones, for the round before the drift
SESSIONS_AFTER = 420  # closed since the drift or the last round, for each round after it
ROUNDS_AFTER = 3  # as often the loop may try to win clicks back
LISTS_AFTER = 1800  # seen by shoppers of the new tastes, by which the new bundle is measured
SETTLE_S = 20.0


class LoopRun:
    """Shoppers in a thread of their own, jobs in processes; this thread directs and shows."""

    def __init__(self, say: Console, services: Services, began: float) -> None:
        self.services, self.began = services, began  # `began` on time.perf_counter
        self.bootstrap = services.broker.bootstrap
        self.folder = services.broker.directory / "loop"  # goes with the broker's
        self.registry = Registry(self.folder / "registry")
        self.traffic = Traffic(self.bootstrap)
        self.jobs: dict[str, FlinkJob] = {}
        self.sessions = 0  # closed ones
        self.feedback: dict[str, int] = {}  # counters
        self.story = Story()
        self.screen = Screen(say, self.story)
        self._looked = 0.0

    def run(self) -> Closed:
        """The whole course; raises DemoError where it can not go on."""
        with self.screen:
            self._start()
            try:
                self._course()
            finally:
                self.traffic.stop()
            self._settle()
        decisions = self.registry.history().decisions
        return Closed(self.traffic.crowd, decisions, self.feedback, self.sessions, self._now())

    def _course(self) -> None:
        """Two days in the shop: one that the bundle knows, and one of other tastes."""
        rate = shop.SHOPPERS.rate
        self._tell(f"Shoppers come, {rate:g} events a second; they see lists and click")
        self.traffic.start()
        self._wait_for_sessions(SESSIONS_BEFORE)
        self._tell("The shop closes for the night")
        self.traffic.stop()
        self._round()
        self._drift()
        self.traffic.start()
        for _ in range(ROUNDS_AFTER):
            self._wait_for_sessions(SESSIONS_AFTER)
            decision = self._round()
            if decision is not None and decision.acts:
                self._follow(decision)
                return

    def _start(self) -> None:
        """Broker, first bundle and jobs; it is over with the first list."""
        self._tell("Starting a Kafka broker; training a bundle on a day of a simulated shop")
        self.folder.mkdir(parents=True)
        messages, output = self.folder / "past.jsonl", self.folder / "first"
        shop.write_past(messages, now_ms())
        with Job("train", shop.train_settings(messages, output)) as train:
            self.services.start_broker(shop.TOPICS)
            self._run("sessions", shop.SESSIONS)
            self._run("feedback", shop.FEEDBACK)
            self._until(lambda: not train.running(), "training the first bundle")
        (first,) = output.iterdir()
        version = self.registry.publish(first).bundle_version
        self.registry.promote(version, 0, "the first bundle of the shop")
        self.story.versions.append(version)
        self._tell(f"{version} acts: {shop.PAST_EVENTS:,} events taught it what goes with what")
        serving = {"bundle": str(first), "registry": str(self.registry.root.local)}
        self._run("recommend", {**shop.RECOMMEND, **serving})
        wake_up(self.bootstrap)
        self._until(self._answered, "waiting for the first list")

    def _run(self, name: str, settings: Mapping[str, object]) -> None:
        """Start a job that goes on until the end."""
        self.jobs[name] = self.services.start(self._job(name, settings))

    def _job(self, name: str, settings: Mapping[str, object]) -> FlinkJob:
        return FlinkJob(name, self.bootstrap, "latency", settings, shop.UNHURRIED)

    def _answered(self) -> bool:
        for job in self.jobs.values():
            job.check_start()
        return self._size("recommendations") > 0

    def _wait_for_sessions(self, more: int) -> None:
        self._look()
        wanted = self.sessions + more
        self._until(lambda: self.sessions >= wanted, f"waiting for {more} more closed sessions")

    def _round(self) -> Decision | None:
        """Run the finetune job; returns what the gate decided, None if there was too little."""
        seen = len(self.registry.history().decisions)
        self._look()
        self._tell(f"The finetune job runs on what {self.sessions:,} sessions tell")
        places = {"registry": str(self.registry.root.local), "folder": str(self.folder / "rounds")}
        with self._job("finetune", {**shop.FINETUNE, **places}) as job:
            self._until(lambda: not job.running(), "fine-tuning, judging")
        decisions = self.registry.history().decisions[seen:]
        if not decisions:
            self._tell("There was nothing to decide yet")
            return None
        self.screen.verdict(self._now(), decisions[0])
        return decisions[0]

    def _drift(self) -> None:
        crowd = self.traffic.crowd
        crowd.drift(shop.later(crowd.population.tastes))
        drift = shop.SHOPPERS.drift
        self._tell(
            f"The shop opens, and tastes have moved: {drift.share:.0%} of the items changed "
            f"places, {drift.new_items:.0%} are replaced by new ones"
        )

    def _follow(self, decision: Decision) -> None:
        """Wait until enough lists of the new bundle were seen."""
        version = decision.bundle_version
        self.story.versions.append(version)

        def seen() -> int:
            found = self.traffic.crowd.exposures.get((version, True))
            return 0 if found is None else found.lists

        self._until(lambda: seen() > 0, f"{version} acts on events from a moment ahead")
        self._tell(f"The running job took {version} up by itself: the first lists are seen")
        self._until(lambda: seen() >= LISTS_AFTER, f"counting clicks on the lists of {version}")

    def _settle(self) -> None:
        """Wait until the feedback job has told of every list that was seen."""
        seen = sum(each.lists for each in self.traffic.crowd.exposures.values())
        deadline = time.monotonic() + SETTLE_S
        while self.feedback.get("joined", 0) < seen and time.monotonic() < deadline:
            self._show()
        self._look()

    def _until(self, done: Callable[[], bool], now: str) -> None:
        """Wait for it; raises DemoError if a service ends meanwhile, or it takes too long."""
        self.story.now = now
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                raise DemoError(f"{PATIENCE_S:.0f} s are over, and the loop still is at: {now}")
            self._show()

    def _show(self) -> None:
        self.services.check()
        self.traffic.check()
        time.sleep(0.25)
        if self._now() >= self._looked + LOOK_S:
            self._look()
        self.screen.update(self._now())

    def _look(self) -> None:
        """See how far topics and counters are."""
        self._looked = self._now()
        self.story.rates.look(self._looked, self.traffic.crowd.exposures)
        if "recommend" in self.jobs:
            self.sessions = self._size("sessions")
            self.feedback = self.jobs["feedback"].counters() or self.feedback
        self.story.figures = (
            f"{self.traffic.crowd.sent:,} events, {self.sessions:,} closed sessions; feedback: "
            f"{self.feedback.get('joined', 0):,} lists seen, "
            f"{self.feedback.get('finals', 0):,} final records"
        )

    def _size(self, topic: str) -> int:
        return sizes(self.bootstrap, {topic: shop.TOPICS[topic]})[topic]

    def _tell(self, what: str) -> None:
        self.screen.tell(self._now(), what)

    def _now(self) -> float:
        return time.perf_counter() - self.began
