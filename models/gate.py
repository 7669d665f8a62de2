"""The gate: whether a candidate bundle may replace the one that serves.

    newest sessions ─┬─ candidate ──── ranks, lists ─┐
                     ├─ serving ────── ranks, lists ─┼─ one check for each question ─ Verdict
                     └─ neighbours ─── ranks ────────┘

It is promoted only if every check passes; a verdict names all that failed, with their figures.
All but the latency, which is measured, is the same whenever it is asked again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.bundle import Bundle, BundleError
from models.comparison import (
    BATCH,
    Outcome,
    list_times,
    neighbours_alone,
    outcome,
    paired_gain,
)
from models.evaluation import sampled_targets
from models.loading import load_bundle
from models.metrics import reciprocal_rank, summary
from models.recommender import Settings
from models.sessions import SessionLog
from models.training import Progress


class GateSettings(BaseModel):
    """What a candidate must achieve."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(
        default=0.01, ge=0, description="share by which its MRR@20 must exceed the serving bundle's"
    )
    baseline_margin: float = Field(
        default=0.0, ge=0, description="share by which its MRR@20 must exceed its neighbours' alone"
    )
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="chance that no gain is taken for one"
    )
    resamples: int = Field(default=2_000, ge=100, description="of the paired bootstrap")
    least: int = Field(default=200, ge=1, description="predictions without which none is promoted")
    predictions: int = Field(default=10_000, ge=1, description="at most, drawn if there are more")
    calibration_tolerance: float = Field(
        default=0.02, ge=0, description="by which the calibration error may grow"
    )
    coverage_tolerance: float = Field(
        default=0.05, ge=0, lt=1, description="share of the recommended items it may lose"
    )
    alone_us: float = Field(default=10_000.0, gt=0, description="median of a list alone, at most")
    batch_us: float = Field(default=1_000.0, gt=0, description="of a list in a batch, at most")
    exclude_seen: bool = Field(
        default=True, description="leave out items of the session, as served"
    )
    seed: int = Field(default=0, ge=0, description="of what is drawn")


@dataclass(frozen=True, slots=True)
class Check:
    """One question, its answer and the figures behind it."""

    name: str  # bundle, evidence, serving, neighbours, calibration, coverage or latency
    passed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says: `checks` in the order they were asked."""

    checks: list[Check]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def promoted(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Every check that decided: all of them for a promotion, those that failed otherwise."""
        return [f"{c.name}: {c.text}" for c in self.checks if c.passed == self.promoted]

    def to_json(self) -> dict[str, Any]:
        """The verdict as it is recorded and announced."""
        return {"promoted": self.promoted, "reasons": self.reasons, "metrics": self.metrics}


def judge(
    candidate: Path | str,
    serving: Bundle | None,
    log: SessionLog,
    settings: GateSettings,
    progress: Progress,
) -> Verdict:
    """Judge a bundle directory on sessions that neither bundle was fitted on.

    Without a `serving` bundle, only its own neighbours have to be beaten.
    """
    try:
        bundle = load_bundle(candidate)
    except BundleError as error:
        return Verdict([Check("bundle", False, str(error))])
    checks = [Check("bundle", True, f"{bundle.version} is sound and gives its golden answers")]
    targets = sampled_targets(log, settings.predictions, settings.seed)
    if len(targets) < settings.least:
        text = f"expected at least {settings.least} predictions to judge by; got {len(targets)}"
        return Verdict([*checks, Check("evidence", False, text)])
    session = np.searchsorted(log.offsets, targets, side="right") - 1
    lists = Settings(exclude_seen=settings.exclude_seen)
    own = outcome(bundle, log, targets, lists, progress)
    alone = neighbours_alone(bundle, log, targets, lists, progress)
    metrics = {"candidate": own.metrics(), "neighbours": summary(alone, 0, 0)}
    if serving is not None:
        other = outcome(serving, log, targets, lists, progress)
        metrics["serving"] = other.metrics()
        checks += [
            _better("serving", own.ranks, other.ranks, session, settings.margin, settings),
            _calibrated(own, other, settings.calibration_tolerance),
            _covering(own, other, settings.coverage_tolerance),
        ]
    checks += [
        _better("neighbours", own.ranks, alone, session, settings.baseline_margin, settings),
        _fast(bundle, log, targets, settings),
    ]
    return Verdict(checks, metrics)


def _better(
    than: str,
    own: np.ndarray,
    other: np.ndarray,
    session: np.ndarray,
    margin: float,
    settings: GateSettings,
) -> Check:
    gain, sure = paired_gain(own, other, session, settings.alpha, settings.resamples, settings.seed)
    wanted = margin * reciprocal_rank(other)
    text = (
        f"MRR@20 {reciprocal_rank(own):.4f} against {reciprocal_rank(other):.4f}; "
        f"gain {gain:+.4f}, at least {sure:+.4f} with {1 - settings.alpha:.0%} confidence; "
        f"expected more than {wanted:+.4f}"
    )
    return Check(than, sure > wanted, text)


def _calibrated(own: Outcome, other: Outcome, tolerance: float) -> Check:
    error, most = own.calibration_error, other.calibration_error + tolerance
    text = f"expected calibration error {error:.4f}; expected at most {most:.4f}"
    return Check("calibration", error <= most, text)


def _covering(own: Outcome, other: Outcome, tolerance: float) -> Check:
    least = other.recommended * (1 - tolerance)
    text = f"{own.recommended} items are in at least one list; expected at least {least:.0f}"
    return Check("coverage", own.recommended >= least, text)


def _fast(bundle: Bundle, log: SessionLog, targets: np.ndarray, settings: GateSettings) -> Check:
    alone, batch = list_times(bundle, log, targets)
    text = (
        f"a list takes {alone:.0f} us alone and {batch:.0f} us in a batch of {BATCH}; "
        f"expected at most {settings.alone_us:g} and {settings.batch_us:g}"
    )
    return Check("latency", alone <= settings.alone_us and batch <= settings.batch_us, text)
