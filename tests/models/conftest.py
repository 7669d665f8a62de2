"""Bundles and sessions that the tests of the models share; built once, never changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from models.finetuning import finetune
from models.fitting import Fitted, Slices, split_by_time
from models.loading import load_bundle
from models.replay import refreshed
from models.sessions import EventTable, ItemFacts, SessionLog, sessions_from
from models.synthetic import write_synthetic_bundle
from models.warm_start import read_parent
from tests import drift
from udfs.events import TYPE_CODES


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic bundle; copy it before changing it."""
    return write_synthetic_bundle(tmp_path_factory.mktemp("bundle") / "small", items=400, seed=3)


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="session")
def cycle_log() -> SessionLog:
    """Sessions in which item i is always followed by item i + 1 (of 30)."""
    return cycles(sessions=500, items=30, length=6, seed=1)


def cycles(sessions: int, items: int, length: int, seed: int) -> SessionLog:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, items, sessions)
    codes = ((start[:, None] + np.arange(length)) % items).astype(np.int32)
    times = 1_700_000_000_000 + np.arange(sessions * length) * 10_000
    facts = ItemFacts(
        [f"i{code}" for code in range(items)],
        [f"thing number{code}" for code in range(items)],
        [f"kind{code % 3}" for code in range(items)],
    )
    owner = np.repeat(np.arange(sessions), length).astype(np.int64)
    table = EventTable(
        owner,
        codes.ravel(),
        np.full(sessions * length, TYPE_CODES["view_item"], np.int8),
        times,
        rng.lognormal(1, 0.5, sessions * length),
        owner,
        facts,
    )
    return sessions_from(table, 1_800_000)


@pytest.fixture(scope="session")
def new() -> Slices:
    """Sessions of the drifting kind, from after the drift."""
    log = drift.sessions([drift.DRIFTING], 600, seed=2, later=True)
    return split_by_time(log, None, None, 0.25, 0.2)


@pytest.fixture(scope="session")
def replay(old: Slices) -> SessionLog:
    return refreshed(None, old.train.joined(old.valid), 300)


@pytest.fixture(scope="session")
def tuned(serving: Path, new: Slices, replay: SessionLog) -> tuple[Fitted, Bundle]:
    """The same bundle, fine-tuned after the drift."""
    return finetune(read_parent(serving), new, replay, drift.TUNE, drift.silent)
