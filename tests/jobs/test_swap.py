"""Bundles that are published, refused and taken back while the recommend job runs."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from pathlib import Path

from models.registry import Registry
from operators.broker import Broker
from operators.ports import free_port
from tests.bundles import forced, versioned
from tests.counting import counted
from tests.kafka import PATIENCE_S, Reader, Record, running, send, wait_for
from tests.shopping import START_MS, STARTER

PROFILES = ("latency", "throughput")
FIRST, SECOND, BROKEN, BACK, END = (START_MS + hour * 3_600_000 for hour in range(1, 6))


def acting(event_time: int) -> str:
    """The version that must answer an event of this time."""
    if event_time < FIRST:
        return "base"
    return "v2" if SECOND <= event_time < BACK else "v1"


def test_bundles_are_swapped_refused_and_taken_back_under_running_jobs(
    broker: Broker, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    paths = {name: versioned(STARTER, tmp_path, name) for name in ("base", "v1", "v2", "v3")}
    registry.publish(paths["v1"])
    registry.promote("v1", FIRST)
    shop = Shop(broker, registry, paths["base"])
    with ExitStack() as stack:
        for profile in PROFILES:
            (tmp_path / profile).mkdir()
            job = running(tmp_path / profile, "recommend", *shop.settings(profile))
            stack.enter_context(job)
        shop.visit(until=SECOND)
        registry.publish(paths["v2"])
        registry.promote("v2", SECOND)
        shop.ask_until(SECOND, "v2")
        shop.visit(until=BROKEN)  # at once, on both sides of both times
        (paths["v3"] / "vectors.npy").write_bytes(b"x")
        forced(registry, paths["v3"], BROKEN)
        shop.ask_until_refused()
        shop.visit(until=BACK)
        registry.rollback(BACK, to="v1")
        shop.ask_until(BACK, "v1")
        shop.visit(until=END)
        shop.wait_until_counted("other_bundle", 1)  # v2 stood in for v3
    for name in PROFILES:
        versions = shop.versions(name)
        assert {event: versions[event] for event in shop.due} == shop.due
        assert set(versions) == shop.due.keys() | set(shop.asked)
    shop.close()
    assert set(shop.due.values()) == {"base", "v1", "v2"}


class Shop:
    """Sends events of known times, and knows which version must answer each."""

    def __init__(self, broker: Broker, registry: Registry, base: Path) -> None:
        self.broker, self.registry, self.base = broker, registry, base
        self.rest = {profile: free_port() for profile in PROFILES}
        self.due: dict[str, str] = {}  # event → version
        self.asked: list[str] = []  # events that may be answered before or after a swap
        self.draw = random.Random(5)
        self.readers: dict[str, Reader] = {}
        kinds = ("lists", "dead")
        topics = [f"swap-{kind}-{name}" for kind in kinds for name in PROFILES]
        broker.create_topics(dict.fromkeys(["swap-events", *topics], 2))

    def settings(self, profile: str) -> list[str]:
        return [
            f"kafka.bootstrap={self.broker.bootstrap}",
            f"kafka.group=swap-{profile}",
            "kafka.start=earliest",
            f"engine.profile={profile}",
            f"engine.rest_port={self.rest[profile]}",
            f"bundle={self.base}",
            f"registry={self.registry.root.path}",
            "poll_s=0.1",
            "budget_ms=10000",
            "events_topic=swap-events",
            f"recommendations_topic=swap-lists-{profile}",
            f"dead_letters_topic=swap-dead-{profile}",
        ]

    def visit(self, until: int) -> None:
        """Send events of many times before `until`, and wait until both jobs answered them."""
        times = [self.draw.randrange(START_MS, until) for _ in range(200)]
        new = {f"e-{len(self.due) + n}": at for n, at in enumerate([*times, until - 1])}
        self.due |= {event: acting(at) for event, at in new.items()}
        self._send(new)
        wait_for(
            lambda: all(self.due.keys() <= self.versions(name).keys() for name in PROFILES),
            PATIENCE_S,
            "every list",
        )

    def close(self) -> None:
        for reader in self.readers.values():
            reader.close()

    def ask(self, at: int) -> None:
        """Send an event that may be answered before a swap or after it."""
        event = f"a-{len(self.asked)}"
        self.asked.append(event)
        self._send({event: at})

    def ask_until(self, at: int, version: str) -> None:
        """Ask at a time until both jobs answer by a version."""

        first = len(self.asked)

        def answered() -> bool:
            self.ask(at)
            answers = [self.versions(name) for name in PROFILES]
            return all(version in map(each.get, self.asked[first:]) for each in answers)

        wait_for(answered, PATIENCE_S, f"{version} to answer")

    def ask_until_refused(self) -> None:
        """Ask until both jobs have told that they refused a bundle."""

        def refused() -> bool:
            self.ask(BROKEN)
            return self.counted("bundles_refused") == [1, 1]

        wait_for(refused, PATIENCE_S, "the refusal")

    def wait_until_counted(self, name: str, least: int) -> None:
        """Wait until a counter of both jobs, which Flink tells a second late, is there."""
        wait_for(lambda: min(self.counted(name)) >= least, PATIENCE_S, name)

    def versions(self, name: str) -> dict[str, str]:
        """What answered each event; fails if one was answered twice."""
        if name not in self.readers:
            self.readers[name] = Reader(self.broker.bootstrap, f"swap-lists-{name}")
        lists = [json.loads(record.value or b"") for record in self.readers[name].read()]
        versions = {each["trigger_event_id"]: each["bundle_version"] for each in lists}
        assert len(versions) == len(lists)
        return versions

    def counted(self, name: str) -> list[int]:
        """A counter of both jobs."""
        return [counted(f"127.0.0.1:{port}").get(name, 0) for port in self.rest.values()]

    def _send(self, events: dict[str, int]) -> None:
        records = [
            Record(
                json.dumps(
                    {
                        "event_id": event,
                        "event_type": "view_item",
                        "event_time": at,
                        "user_id": event,
                        "items": [{"item_id": "85123A"}],
                    }
                ).encode(),
                event.encode(),
            )
            for event, at in events.items()
        ]
        send(self.broker.bootstrap, "swap-events", records)
