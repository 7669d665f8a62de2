"""The shipped bundle is what `./scripts/starter` makes.

A full fit takes minutes, so here: the same data, settings and code; and what is fitted without
torch, fitted again and compared bit by bit. `./scripts/starter --check` does the rest.
"""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jobs.settings import load
from jobs.train import TrainSettings, slices_of
from models.bundle import Bundle
from models.catalogue import catalogue_of
from models.fitting import Slices, catalogue_files, neighbours_of
from models.loading import load_bundle
from models.provenance import code_hash, data_hash, settings_hash

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))
from starter_check import AGREEMENT, agreement  # noqa: E402

STARTER = ROOT / "models" / "starter" / "online-retail"
REBUILD = "the starter bundle is out of date: run ./scripts/starter"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    found = load(TrainSettings, "train", ROOT / "flink-conf" / "starter.yaml", environ={})
    path = str(ROOT / found.source.path)
    return found.model_copy(update={"source": found.source.model_copy(update={"path": path})})


@pytest.fixture(scope="module")
def slices(settings: TrainSettings) -> Slices:
    return slices_of(settings)[0]


@pytest.fixture(scope="module")
def starter() -> Bundle:
    return load_bundle(STARTER)


def test_it_was_made_from_this_data(starter: Bundle, slices: Slices) -> None:
    made = starter.manifest["made_from"]["data"]
    assert made == data_hash(slices.train, slices.valid), REBUILD


def test_it_was_made_with_these_settings(starter: Bundle) -> None:
    found = load(TrainSettings, "train", ROOT / "flink-conf" / "starter.yaml", environ={})
    assert starter.manifest["made_from"]["settings"] == settings_hash(found.recipe()), REBUILD


def test_it_was_made_by_this_code(starter: Bundle) -> None:
    assert starter.manifest["made_from"]["code"] == code_hash(), REBUILD


def test_catalogue_and_neighbours_are_refitted_to_the_bit(
    settings: TrainSettings, slices: Slices
) -> None:
    log = slices.train.joined(slices.valid)
    fit = settings.fit
    catalogue, code = catalogue_of(log, fit.min_count, fit.max_items, fit.recent_half_life_days)
    neighbours = neighbours_of(log, catalogue, code, fit.neighbours)
    for name, data in catalogue_files(catalogue, neighbours).items():
        assert data == (STARTER / name).read_bytes(), f"{name}: {REBUILD}"


def test_it_knows_nothing_of_what_the_demo_replays(starter: Bundle, slices: Slices) -> None:
    december = 1_322_697_600_000  # 2011-12-01T00:00:00Z
    assert starter.manifest["data_window"]["to"] < december <= slices.test.ends.min()


def test_its_lists_hit_eight_times_as_often_as_what_is_popular(
    starter: Bundle, slices: Slices
) -> None:
    metrics = starter.manifest["metrics"]
    assert metrics["served"]["hr20"] >= 8 * metrics["served_popularity"]["hr20"]
    assert metrics["blend"]["hr20"] > max(metrics["encoder"]["hr20"], metrics["covisits"]["hr20"])
    assert measured_again(starter, slices) == pytest.approx(metrics["served"]["hr20"], abs=0.03)


def test_a_bundle_agrees_with_itself_and_not_with_another_order_of_items(
    starter: Bundle, slices: Slices
) -> None:
    assert agreement(starter, starter, slices.test, count=100) == 1.0
    turned = replace(starter, vectors=-starter.vectors)
    assert agreement(starter, turned, slices.test, count=100) < AGREEMENT


def measured_again(starter: Bundle, slices: Slices) -> float:
    from models.evaluation import sampled_targets
    from models.metrics import hit_rate, ranks_from_lists
    from models.recommender import Recommender
    from udfs.session_features import session_features

    targets = sampled_targets(slices.test, 3_000, seed=1)
    batch = slices.test.prefixes(targets)
    lists = Recommender(starter).recommend(batch, session_features(batch))
    wanted = [slices.test.facts.ids[code] for code in slices.test.items[targets].tolist()]
    ids, scores = [each.item_ids for each in lists], [each.scores for each in lists]
    return hit_rate(ranks_from_lists(ids, scores, wanted))


def test_it_is_small_and_its_metrics_can_be_shown(starter: Bundle) -> None:
    from jobs.train import metrics_table

    assert sum(each.stat().st_size for each in STARTER.iterdir()) < 8_000_000
    screen = io.StringIO()
    Console(file=screen, width=120).print(metrics_table(dict(starter.manifest)))
    assert "served_popularity" in screen.getvalue()
    assert np.isfinite(starter.vectors).all()
