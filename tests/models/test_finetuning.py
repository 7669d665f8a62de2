"""Learning on: new tastes and new items are learned, old ones are not forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.adaptation import mixed
from models.batching import ItemRows
from models.bundle import Bundle
from models.evaluation import encoder_scores, scored
from models.finetuning import finetune
from models.fitting import Fitted, Slices
from models.loading import load_bundle
from models.metrics import reciprocal_rank
from models.recommender import Recommender, Settings
from models.sessions import SessionLog
from models.warm_start import read_parent
from tests.drift import NEW, STEADY, TUNE, published, sessions, silent
from udfs.session_features import SessionBatch, session_features


def mrr(bundle: Bundle, log: SessionLog) -> float:
    """Of the encoder alone, since the table of neighbours forgets nothing anyway."""
    chunks = scored(
        bundle, log, log.target_rows(), lambda batch: encoder_scores(bundle, batch), silent, "it"
    )
    return reciprocal_rank(np.concatenate([ranks for _, ranks in chunks]))


def firsts(bundle: Bundle, log: SessionLog) -> float:
    """Share of next items that are the first of the served list."""
    targets = log.target_rows()
    batch = log.prefixes(targets)
    settings = Settings(list_size=1, exclude_seen=False)
    lists = Recommender(bundle, settings).recommend(batch, session_features(batch))
    wanted = [log.facts.ids[code] for code in log.items[targets].tolist()]
    return float(np.mean([answer.item_ids == [w] for answer, w in zip(lists, wanted, strict=True)]))


def test_new_tastes_are_learned(serving: Path, tuned: tuple[Fitted, Bundle], new: Slices) -> None:
    stale = load_bundle(serving)
    assert firsts(stale, new.test) < 0.3
    assert firsts(tuned[1], new.test) > 0.7
    assert mrr(tuned[1], new.test) > 2 * mrr(stale, new.test)


def test_old_tastes_are_not_forgotten_thanks_to_the_replay(
    serving: Path, tuned: tuple[Fitted, Bundle], new: Slices, replay: SessionLog
) -> None:
    steady = sessions([STEADY], 100, seed=3)
    before, after = mrr(load_bundle(serving), steady), mrr(tuned[1], steady)
    none = TUNE.model_copy(update={"replay_share": 0.0})
    _, forgetful = finetune(read_parent(serving), new, replay, none, silent)
    assert after > 0.9 * before
    assert mrr(forgetful, steady) < after - 0.1


def test_distillation_holds_the_encoder_to_what_it_said(
    serving: Path, tuned: tuple[Fitted, Bundle], new: Slices, replay: SessionLog
) -> None:
    was = load_bundle(serving)
    batch = replay.prefixes(replay.target_rows()[:300])
    moved = [said(tuned[1], batch, was)]
    for weight in (0.0, 20.0):
        settings = TUNE.model_copy(update={"distillation": weight})
        _, bundle = finetune(read_parent(serving), new, replay, settings, silent)
        moved.append(said(bundle, batch, was))
    assert moved[2] < moved[0] < moved[1]


def said(bundle: Bundle, batch: SessionBatch, was: Bundle) -> float:
    """How far what the encoder says is from what another one says, over the latter's items."""
    place = [bundle.catalogue.item_ids.index(item) for item in was.catalogue.item_ids]
    own, other = encoder_scores(bundle, batch)[:, place], encoder_scores(was, batch)
    own, other = (np.exp(s - s.max(1, keepdims=True)) for s in (own, other))
    own, other = own / own.sum(1, keepdims=True), other / other.sum(1, keepdims=True)
    return float((other * np.log(other / own)).sum(1).mean())


def test_new_items_are_recommended(tuned: tuple[Fitted, Bundle], new: Slices) -> None:
    bundle = tuned[1]
    assert "new" in bundle.catalogue.item_ids
    targets = new.test.target_rows()
    after = targets[new.test.items[targets] == NEW]
    assert len(after) > 5
    batch = new.test.prefixes(after)
    lists = Recommender(bundle, Settings(list_size=3)).recommend(batch, session_features(batch))
    assert np.mean(["new" in answer.item_ids for answer in lists]) > 0.8


def test_one_seed_gives_one_candidate_and_another_seed_another(
    serving: Path, tuned: tuple[Fitted, Bundle], new: Slices, replay: SessionLog
) -> None:
    again, _ = finetune(read_parent(serving), new, replay, TUNE, silent)
    assert again == tuned[0]
    settings = TUNE.model_copy(update={"seed": 6})
    other, _ = finetune(read_parent(serving), new, replay, settings, silent)
    assert other.files["encoder.onnx"] != tuned[0].files["encoder.onnx"]
    assert other.files["neighbour_items.npy"] == tuned[0].files["neighbour_items.npy"]


def test_it_goes_on_without_a_replay_buffer_and_with_one_that_knows_nothing(
    serving: Path, new: Slices
) -> None:
    once = TUNE.model_copy(update={"epochs": 1})
    without, _ = finetune(read_parent(serving), new, None, once, silent)
    alone = new.train.part(0, 1)
    unknown = replace(alone, facts=replace(alone.facts, ids=[f"x{n}" for n in range(61)]))
    with_it, _ = finetune(read_parent(serving), new, unknown, once, silent)
    assert with_it == without


def test_a_batch_is_new_and_replayed_by_their_share_and_all_that_is_new_is_in_an_epoch() -> None:
    rng = np.random.default_rng(0)
    new = ItemRows(np.arange(400), np.repeat(np.arange(100), 4))
    old = ItemRows(np.arange(1000, 1080), np.repeat(np.arange(20), 4))
    for share in (0.25, 0.5):
        pairs = mixed(new, old, 10, 48, share, rng)
        assert sorted(np.concatenate([part[part >= 0] for part, _ in pairs])) == list(range(400))
        replayed = np.concatenate([again[again >= 0] for _, again in pairs])
        assert replayed.min() >= 1000
        count = sum((again[:, 1:] >= 0).sum() for _, again in pairs)
        assert count / (count + 300) == pytest.approx(share, abs=0.06)
    assert all(len(again) == 0 for _, again in mixed(new, old, 10, 48, 0.0, rng))


def test_a_candidate_says_what_it_came_from_and_can_be_fine_tuned_again(
    serving: Path,
    tuned: tuple[Fitted, Bundle],
    new: Slices,
    replay: SessionLog,
    tmp_path: Path,
) -> None:
    path = published(tmp_path / "second", *tuned, new, replay=replay)
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    assert manifest["parent"] == load_bundle(serving).version
    assert manifest["counts"]["replayed"] == len(replay)
    assert manifest["data_window"]["to"] == new.valid.times.max()
    once = TUNE.model_copy(update={"epochs": 1})
    third, bundle = finetune(read_parent(path), new, replay, once, silent)
    assert third.manifest["parent"] == manifest["bundle_version"]
    assert set(bundle.catalogue.item_ids) == set(tuned[1].catalogue.item_ids)


def test_curves_of_both_passes_are_told(serving: Path, new: Slices, replay: SessionLog) -> None:
    points: dict[str, list[int]] = {}

    def record(curve: str, step: int, value: float) -> None:
        assert np.isfinite(value)
        points.setdefault(curve, []).append(step)

    fitted, _ = finetune(read_parent(serving), new, replay, TUNE, silent, record)
    assert set(points) == {
        "trial/encoder/loss",
        "trial/encoder/validation_loss",
        "trial/encoder/validation_mrr20",
        "ranker/loss",
        "final/encoder/loss",
    }
    assert points["trial/encoder/validation_loss"][0] == 0  # before the first epoch
    assert len(points["final/encoder/loss"]) % fitted.epochs[0] == 0
