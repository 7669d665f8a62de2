"""Rounds of learning: better bundles act, others do not, and a crash leaves nothing that does."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import time
from pathlib import Path

import pytest

from models.finetuning import FinetuneSettings
from models.gate import GateSettings
from models.history import RegistryError
from models.registry import Registry
from models.rounds import Loop, RoundSettings
from models.samples import Samples
from tests import drift

SETTINGS = RoundSettings(
    least_sessions=100,
    replay_sessions=300,
    finetune=drift.TUNE,
    gate=GateSettings(
        least=50,
        alone_us=1e6,
        batch_us=1e6,
        exclude_seen=False,
        calibration_tolerance=1,
        coverage_tolerance=0.9,
    ),
)
QUICK = SETTINGS.model_copy(update={"finetune": FinetuneSettings(epochs=1, batch=64)})
ROOT = Path(__file__).resolve().parents[2]
NOW = drift.LATER + 10**9


def loop_in(folder: Path) -> Loop:
    return Loop(folder, Registry(folder / "registry"), Samples(folder / "samples"))


@pytest.fixture
def loop(serving: Path, tmp_path: Path) -> Loop:
    """A registry in which the old bundle acts, and samples of the new tastes."""
    found = loop_in(tmp_path)
    version = found.registry.publish(serving).bundle_version
    found.registry.promote(version, 0)
    found.samples.add(
        drift.samples(drift.sessions([drift.DRIFTING], 400, seed=2, later=True)), {}, 1
    )
    return found


def state(loop: Loop) -> list[str]:
    runs = (loop.folder / "runs").iterdir()
    return [json.loads((run / "run.json").read_text())["state"] for run in sorted(runs)]


def test_a_better_bundle_acts_and_knows_what_it_learned(loop: Loop) -> None:
    assert (
        loop.round(SETTINGS.model_copy(update={"least_sessions": 500}), NOW, drift.silent) is None
    )
    decision = loop.round(SETTINGS, NOW, drift.silent)
    assert decision is not None
    assert (decision.decided, decision.active_from) == ("promoted", NOW)
    assert decision.metrics["candidate"]["mrr20"] > decision.metrics["serving"]["mrr20"]
    acting = loop.registry.history().newest
    assert acting == decision
    bundle = loop.registry.bundles.load(acting)
    assert bundle.manifest["parent"] == decision.parent
    assert bundle.manifest["learned"]["part"] == 1
    assert (loop.folder / "replay.parquet").exists()
    (run,) = (loop.folder / "runs").iterdir()
    told = json.loads((run / "run.json").read_text())
    assert told["bundle_version"] == decision.bundle_version
    assert told["parameters"]["finetune"] == drift.TUNE.model_dump()
    assert told["reasons"]
    assert (run / "curves.png").exists()
    # What was kept for the gate is all that it does not know; that is too little for a round.
    assert loop.round(SETTINGS, NOW, drift.silent) is None


def test_a_refused_bundle_stays_out_and_is_not_made_again(loop: Loop) -> None:
    strict = QUICK.model_copy(update={"gate": GateSettings(least=50, margin=100.0)})
    decision = loop.round(strict, NOW, drift.silent)
    assert decision is not None
    assert decision.decided == "rejected"
    assert decision.why.startswith("serving: MRR@20")
    assert decision.bundle_version not in loop.registry.bundles.all()
    assert state(loop) == ["rejected"]
    assert loop.round(strict, NOW, drift.silent) is None
    loop.samples.add(drift.samples(drift.sessions([drift.DRIFTING], 50, seed=4, later=True)), {}, 1)
    second = loop.round(strict, NOW, drift.silent)
    assert second is not None
    assert second.bundle_version != decision.bundle_version


def test_without_a_bundle_that_acts_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="expected a bundle that acts, to fine-tune it"):
        loop_in(tmp_path).round(SETTINGS, NOW, drift.silent)


def one_round(folder: Path) -> None:
    loop_in(folder).round(QUICK, NOW, drift.silent)


def test_a_trainer_that_is_killed_at_any_moment_leaves_no_half_bundle(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # so that the server can import this module
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def killed_after(seconds: float | None, folder: Path) -> bool:
        process = context.Process(target=one_round, args=(folder,))
        process.start()
        process.join(seconds)
        alive = process.is_alive()
        process.kill()
        process.join()
        assert alive or process.exitcode == 0
        return alive

    copy = Path(shutil.copytree(loop.folder, tmp_path / "copy"))
    killed_after(0.1, copy)  # it has imported everything by now
    started = time.monotonic()
    killed_after(None, copy)
    longest, moment, killed = time.monotonic() - started, random.Random(0), 0
    for number in range(6):
        seen = len(loop.registry.history().decisions)
        killed += killed_after(moment.uniform(0, longest), loop.folder)
        for version in loop.registry.bundles.all():
            loop.registry.bundles.load(loop.registry.bundles.find(version))
        if len(loop.registry.history().decisions) > seen:
            log = drift.sessions([drift.DRIFTING], 150, seed=number, later=True)
            loop.samples.add(drift.samples(log), {}, 1)
    assert killed > 3
    before = len(loop.registry.history().decisions)
    one_round(loop.folder)
    assert len(loop.registry.history().decisions) == before + 1
