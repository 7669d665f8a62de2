"""Bundles that are broken under a job that follows their registry."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

from models.bundle import BundleError
from models.bundle_files import FILES, MANIFEST
from models.loading import load_bundle
from models.registry import Registry
from tests.bundles import decide, forced, versioned
from tests.faults.broken_bundles import BREAKS
from tests.faults.run import Run, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import PATIENCE_S, wait_for
from tests.shopping import START_MS, STARTER, Swap, shopping, starter

WORKERS = 2
MUTATIONS = 240
HOUR_MS = 3_600_000
LATER_MS = START_MS + 30 * 24 * HOUR_MS  # of events after all others


@scenario()
def bad_bundle(ground: Ground) -> Figures:
    """Twelve broken bundles are promoted: each is refused and says why, the old one goes on."""
    registry = Registry(ground.folder / "registry")
    why: dict[str, str] = {}
    with (
        stage(ground) as ours,
        run(ours, "bad", "throughput", "exactly-once", *on(registry)) as ran,
    ):
        for number, (name, break_it) in enumerate(BREAKS.items(), start=1):
            path = versioned(STARTER, ground.folder, name)
            break_it(path)
            why[name] = refusal(registry, path)
            forced(registry, path, START_MS)
            refused(ran, number)
            assert told_in_logs(ours.cluster.directory, name) == WORKERS, f"{name}: not in the log"
            ground.say(f"refused {why[name]}")
        told = ran.verify()
        assert ran.failures() == 0, ran.why_it_ended()
        assert ran.counts().get("bundles_loaded", 0) == 0
    return told | {"refused": len(why)}


@scenario(quick=True)
def swap_kill(ground: Ground) -> Figures:
    """A TaskManager is killed while it loads a promoted bundle: that answers what it acts on."""
    registry = Registry(ground.folder / "registry")
    path = versioned(STARTER, ground.folder, "next")
    registry.publish(path)
    items = starter().catalogue.item_ids[:200]
    records = shopping(41, 40, 600, items) + shopping(42, 40, 200, items, LATER_MS)
    settings = ("latency", "at-least-once", *on(registry))
    with stage(ground) as ours, run(ours, "swap", *settings, records=records) as ran:
        ours.cluster.start_taskmanager()  # the one that takes over

        def swap_and_kill() -> None:
            registry.promote("next", LATER_MS - HOUR_MS)
            time.sleep(0.1)  # now it is being loaded
            ran.kill_taskmanager()

        seconds = ran.survives(swap_and_kill)
        ground.say(f"killed a TaskManager; lists again after {seconds:.1f} s")
        ran.flow.finish()
        told = ran.verify(Swap(load_bundle(path), LATER_MS - HOUR_MS))
        made = Counter(
            json.loads(each.value or b"")["bundle_version"] for each in ran.watch.records()
        )
        assert min(made["next"], made[starter().version]) > 100, made
    return told | {"by_bundle": dict(made), "seconds": round(seconds, 1)}


@scenario()
def index_bit_rot(ground: Ground) -> Figures:
    """Single bytes of a bundle's files change, 240 times: each time it is refused before use."""
    path = versioned(STARTER, ground.folder, "rotten")
    sha256 = Registry(ground.folder / "sound").publish(path).sha256
    draw, hit = random.Random(17), Counter[str]()
    for _ in range(MUTATIONS):
        name = draw.choice([*FILES, MANIFEST])
        sound = (path / name).read_bytes()
        (path / name).write_bytes(rotten(draw, sound))
        try:
            load_bundle(path, sha256)
        except BundleError:
            hit[name] += 1
        (path / name).write_bytes(sound)
    assert hit.total() == MUTATIONS, f"{MUTATIONS - hit.total()} mutations were let in: {hit}"
    load_bundle(path, sha256)  # it was only them
    registry = Registry(ground.folder / "registry")
    with (
        stage(ground) as ours,
        run(ours, "rot", "throughput", "exactly-once", *on(registry)) as ran,
    ):
        published = registry.publish(path)  # it is sound
        stored = registry.bundles.place(published).local
        assert stored is not None
        index = stored / "index.faiss"
        index.write_bytes(rotten(draw, index.read_bytes()))
        # Whoever decided looked before it rotted; a worker must not be as quick.
        decide(registry, "promoted", "rotten", LATER_MS, published.sha256)
        ground.say("a bundle was promoted whose index.faiss is rotten")
        refused(ran, 1)
        told = ran.verify()
        assert ran.failures() == 0, ran.why_it_ended()
    return told | {"mutations": MUTATIONS, "refused": hit.total(), "files": dict(hit)}


def on(registry: Registry) -> tuple[str, ...]:
    """Settings of a job that follows a registry closely."""
    return f"registry={registry.root.path}", "poll_s=0.1", "budget_ms=10000"


def refusal(registry: Registry, path: Path) -> str:
    """Why the registry does not take a bundle; AssertionError if it does."""
    try:
        registry.publish(path)
    except BundleError as error:
        return str(error)
    raise AssertionError(f"the registry took {path.name}")


def refused(ran: Run, number: int) -> None:
    """Wait until every worker has told that it refused so many bundles."""
    wait_for(
        lambda: ran.counts().get("bundles_refused", 0) == WORKERS * number,
        PATIENCE_S,
        f"refusal {number}",
    )


def told_in_logs(folder: Path, version: str) -> int:
    """In how many lines of the cluster's logs a bundle was refused."""
    lines = [line for log in folder.rglob("*.log") for line in log.read_text("utf-8").splitlines()]
    return sum(f"refused bundle {version} " in line for line in lines)


def rotten(draw: random.Random, data: bytes) -> bytes:
    """The data with one other byte."""
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ draw.randrange(1, 256)]) + data[at + 1 :]
