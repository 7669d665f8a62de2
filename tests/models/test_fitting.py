"""Learning: where the right answer is known, a fit finds it; one seed gives one bundle."""

from __future__ import annotations

import numpy as np
import pytest

from models.bundle import Bundle
from models.evaluation import evaluate
from models.fitting import FitSettings, Fitted, Slices, fit, split_by_time
from models.ranker_training import RankerSettings
from models.recommender import Recommender, Settings
from models.sessions import SessionLog
from models.training import EncoderSettings
from udfs.session_features import session_features

SMALL = FitSettings(
    encoder=EncoderSettings(dimension=16, epochs=6, batch=128, learning_rate=0.02, dropout=0.1),
    ranker=RankerSettings(samples=400, hidden=8, epochs=4),
    min_count=1,
    seed=7,
)


def silent(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total, what


@pytest.fixture(scope="module")
def slices(cycle_log: SessionLog) -> Slices:
    return split_by_time(cycle_log, None, None, 0.2, 0.2)


@pytest.fixture(scope="module")
def fitted(slices: Slices) -> tuple[Fitted, Bundle]:
    return fit(slices, SMALL, silent)


def test_slices_follow_each_other_in_time(cycle_log: SessionLog, slices: Slices) -> None:
    assert len(slices.train) + len(slices.valid) + len(slices.test) == len(cycle_log)
    assert slices.train.ends.max() <= slices.valid.ends.min()
    assert slices.valid.ends.max() <= slices.test.ends.min()


def test_what_ends_after_a_given_time_is_only_for_testing(cycle_log: SessionLog) -> None:
    cut = int(cycle_log.ends[300])
    slices = split_by_time(cycle_log, int(cycle_log.ends[400]), cut, 0.5, 0.1)
    assert len(slices.test) == 100
    assert slices.valid.ends.max() < cut == slices.test.ends.min()


def test_too_few_sessions_are_refused(cycle_log: SessionLog) -> None:
    with pytest.raises(ValueError, match="expected at least 2 sessions before the test slice"):
        split_by_time(cycle_log.part(0, 1), None, None, 0.1, 0.1)


def test_the_next_item_of_a_cycle_is_learned(fitted: tuple[Fitted, Bundle], slices: Slices) -> None:
    _, bundle = fitted
    targets = slices.test.target_rows()
    batch = slices.test.prefixes(targets)
    settings = Settings(list_size=1, exclude_seen=False)
    lists = Recommender(bundle, settings).recommend(batch, session_features(batch))
    expected = [slices.test.facts.ids[code] for code in slices.test.items[targets].tolist()]
    right = [answer.item_ids == [item] for answer, item in zip(lists, expected, strict=True)]
    assert np.mean(right) > 0.95


def test_each_part_beats_popularity_and_the_blend_is_not_worse(
    fitted: tuple[Fitted, Bundle], slices: Slices
) -> None:
    _, bundle = fitted
    results = evaluate(bundle, slices.test, slices.test.target_rows(), silent)
    mrr = {name: metrics["mrr20"] for name, metrics in results.items()}
    assert min(mrr["encoder"], mrr["covisits"]) > 3 * mrr["popularity"]
    assert mrr["blend"] >= max(mrr["encoder"], mrr["covisits"]) - 0.02


def test_one_seed_gives_one_bundle_and_another_seed_another(
    fitted: tuple[Fitted, Bundle], slices: Slices
) -> None:
    again, _ = fit(slices, SMALL, silent)
    assert again == fitted[0]
    other, _ = fit(slices, SMALL.model_copy(update={"seed": 8}), silent)
    assert other.files["encoder.onnx"] != fitted[0].files["encoder.onnx"]
    assert other.files["neighbour_items.npy"] == fitted[0].files["neighbour_items.npy"]


def test_a_catalogue_without_items_is_refused(slices: Slices) -> None:
    with pytest.raises(ValueError, match="expected at least 2 items that occur 9999 times"):
        fit(slices, SMALL.model_copy(update={"min_count": 9999}), silent)


def test_negatives_can_be_shared_in_a_batch(slices: Slices) -> None:
    encoder = SMALL.encoder.model_copy(update={"negatives": 8})
    _, bundle = fit(slices, SMALL.model_copy(update={"encoder": encoder}), silent)
    targets = slices.test.target_rows()[:200]
    assert evaluate(bundle, slices.test, targets, silent)["encoder"]["hr20"] > 0.9
