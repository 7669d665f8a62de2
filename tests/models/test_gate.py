"""The gate promotes what is better by more than chance, and names all that speaks against it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import Bundle, assemble
from models.candidates import CANDIDATE_FEATURES
from models.comparison import calibration_error, paired_gain
from models.export import export_ranker
from models.fitting import FitSettings, Fitted, Slices, blank_ranker
from models.gate import GateSettings, Verdict, judge
from models.loading import load_bundle
from models.metrics import MISS
from models.ranker_training import RankerSettings
from models.sessions import SessionLog
from tests.drift import published, silent

GATE = GateSettings(
    least=50,
    alone_us=1e6,
    batch_us=1e6,
    exclude_seen=False,
    calibration_tolerance=0.05,
    coverage_tolerance=0.5,  # nobody looks at the steady items any more
)


@pytest.fixture(scope="module")
def better(
    tuned: tuple[Fitted, Bundle],
    new: Slices,
    replay: SessionLog,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle that knows the new tastes."""
    path = tmp_path_factory.mktemp("bundles") / "better"
    return published(path, *tuned, new, replay=replay)


def verdict(candidate: Path, against: Path | None, new: Slices, **settings: float) -> Verdict:
    stale = None if against is None else load_bundle(against)
    return judge(candidate, stale, new.test, GATE.model_copy(update=settings), silent)


def failed(found: Verdict) -> set[str]:
    return {check.name for check in found.checks if not check.passed}


def test_a_better_bundle_is_promoted_with_all_its_reasons(
    better: Path, serving: Path, new: Slices
) -> None:
    found = verdict(better, serving, new)
    assert found.promoted, found.reasons
    names = ["bundle", "serving", "calibration", "coverage", "neighbours", "latency"]
    assert [reason.split(":")[0] for reason in found.reasons] == names
    assert found.metrics["candidate"]["mrr20"] > 1.5 * found.metrics["serving"]["mrr20"]
    assert found.to_json()["promoted"] is True


def test_a_worse_bundle_is_refused(better: Path, serving: Path, new: Slices) -> None:
    found = verdict(serving, better, new)
    assert not found.promoted
    assert "serving" in failed(found)
    assert any(reason.startswith("serving: MRR@20") for reason in found.reasons)


def test_an_equal_bundle_is_refused(better: Path, new: Slices) -> None:
    found = verdict(better, better, new)
    assert failed(found) == {"serving"}
    assert "gain +0.0000, at least +0.0000" in found.reasons[0]


def test_a_gain_below_the_margin_is_none(better: Path, serving: Path, new: Slices) -> None:
    assert failed(verdict(better, serving, new, margin=50.0)) == {"serving"}


def test_a_bundle_that_its_own_neighbours_beat_is_refused(
    better: Path, serving: Path, new: Slices
) -> None:
    found = verdict(better, serving, new, baseline_margin=50.0)
    assert failed(found) == {"neighbours"}
    assert failed(verdict(better, None, new, baseline_margin=50.0)) == {"neighbours"}


def test_the_first_bundle_only_has_to_beat_its_neighbours(better: Path, new: Slices) -> None:
    found = verdict(better, None, new)
    assert [check.name for check in found.checks] == ["bundle", "neighbours", "latency"]


def test_a_slow_bundle_is_refused(better: Path, serving: Path, new: Slices) -> None:
    for budget in ("alone_us", "batch_us"):
        found = verdict(better, serving, new, **{budget: 0.5})
        assert failed(found) == {"latency"}
        assert "us alone and" in found.reasons[0]


def test_every_reason_is_named(
    tuned: tuple[Fitted, Bundle], serving: Path, new: Slices, tmp_path: Path
) -> None:
    popular = reranked(tuned, new, tmp_path / "popular", {"log_popularity": 1000.0})
    found = verdict(popular, serving, new, batch_us=0.5, calibration_tolerance=0.0)
    wanted = {"serving", "calibration", "coverage", "neighbours", "latency"}
    assert failed(found) == wanted
    assert [reason.split(":")[0] for reason in found.reasons] == [
        check.name for check in found.checks if check.name in wanted
    ]


def reranked(
    tuned: tuple[Fitted, Bundle], new: Slices, path: Path, weights: dict[str, float]
) -> Path:
    """The fine-tuned bundle with a ranker that is a weighted sum of candidate features."""
    ranker = blank_ranker(FitSettings(ranker=RankerSettings(hidden=1)))
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.zero_()
        for name, weight in weights.items():
            ranker.of_candidate.weight[0, CANDIDATE_FEATURES.index(name)] = weight
        ranker.out.weight.fill_(1.0)
    fitted, _ = tuned
    files = {**fitted.files, "ranker.onnx": export_ranker(ranker)}
    other = Fitted(files, fitted.manifest, fitted.epochs)
    return published(path, other, assemble(fitted.manifest, files), new)


def test_a_broken_bundle_is_refused_with_what_is_wrong(
    better: Path, serving: Path, new: Slices, tmp_path: Path
) -> None:
    broken = shutil.copytree(better, tmp_path / "broken")
    vectors = (broken / "vectors.npy").read_bytes()
    (broken / "vectors.npy").write_bytes(vectors[:-8])
    found = verdict(broken, serving, new)
    assert not found.promoted
    assert found.reasons == [
        f"bundle: bundle broken: expected {len(vectors)} bytes in vectors.npy; "
        f"got {len(vectors) - 8}; fetch the bundle again"
    ]


def test_nothing_is_promoted_on_too_little_evidence(
    better: Path, serving: Path, new: Slices
) -> None:
    found = judge(better, load_bundle(serving), new.test.part(0, 5), GATE, silent)
    assert found.reasons == ["evidence: expected at least 50 predictions to judge by; got 25"]


def test_a_verdict_is_the_same_when_asked_again(better: Path, serving: Path, new: Slices) -> None:
    first, second = (verdict(better, serving, new, predictions=100) for _ in range(2))
    assert first.checks[:-1] == second.checks[:-1]
    assert first.metrics == second.metrics


def test_a_gain_is_sure_only_if_chance_would_not_give_it() -> None:
    rng = np.random.default_rng(0)
    session = np.repeat(np.arange(200), 5)
    ranks = rng.integers(1, 20, 1000)
    gain, sure = paired_gain(ranks, ranks[rng.permutation(1000)], session)
    assert sure < 0
    assert sure < gain
    better = np.maximum(ranks - 1, 1)
    gain, sure = paired_gain(better, ranks, session)
    assert 0 < sure < gain
    assert gain == pytest.approx(np.mean(1 / better - 1 / ranks))


def test_predictions_of_one_session_are_not_taken_for_independent() -> None:
    rng = np.random.default_rng(0)
    own = np.where(np.repeat(rng.random(40) < 0.6, 25), 1, MISS)
    other = np.full(1000, 2)
    _, together = paired_gain(own, other, np.repeat(np.arange(40), 25))
    _, apart = paired_gain(own, other, np.arange(1000))
    assert together < apart - 0.05


def test_the_calibration_error_is_the_gap_between_what_is_claimed_and_what_comes() -> None:
    claimed = np.repeat([0.1, 0.5], 100)
    came = np.zeros(200, bool)
    came[:10] = came[100:150] = True
    assert calibration_error(claimed, came, bins=2) == pytest.approx(0)
    came[100:150] = False
    assert calibration_error(claimed, came, bins=2) == pytest.approx(0.25)
    assert calibration_error(np.empty(0), np.empty(0, bool)) == 1.0
