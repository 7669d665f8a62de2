"""One round of learning: from new samples to a decision about a candidate, and what is kept of it.

    registry ─ serving bundle ─┬─ fine-tune on what it does not know ─ candidate ─ gate ─ registry
    samples, replay buffer ────┘

A round that died left nothing that acts: the next one does it again, from the same samples to the
same candidate, and what was decided already stays decided.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.bundle_files import MANIFEST
from models.finetuning import FinetuneSettings, finetune
from models.fitting import Slices, split_by_time
from models.gate import GateSettings, Verdict, judge
from models.history import Decision, RegistryError
from models.publishing import finished, publish
from models.registry import Registry
from models.replay import chosen, read_buffer, refreshed, session_keys, write_buffer
from models.samples import Learned, Part, Samples
from models.sessions import SessionLog
from models.tracking import Run, state_of
from models.training import Progress
from models.warm_start import Parent, read_parent

_LONGEST_WHY = 2000


class RoundSettings(BaseModel):
    """What is learned in a round, and how it is judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least_sessions: int = Field(default=500, ge=10, description="new ones that a round waits for")
    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="newest sessions, for the gate; learned the next time"
    )
    valid_share: float = Field(
        default=0.1, gt=0, lt=1, description="newest of the rest: early stopping and the ranker"
    )
    replay_sessions: int = Field(default=30_000, ge=0, description="sessions of the replay buffer")
    finetune: FinetuneSettings = FinetuneSettings()
    gate: GateSettings = GateSettings()


class Loop:
    """The rounds in a folder: runs/ (see models/tracking.py), replay.parquet, candidate/."""

    def __init__(self, folder: Path, registry: Registry, samples: Samples) -> None:
        self.folder, self.registry, self.samples = folder, registry, samples

    def round(
        self, settings: RoundSettings, active_from: int, progress: Progress
    ) -> Decision | None:
        """Learn, judge, decide; None if there is not enough that the serving bundle does not know.

        Raises RegistryError, ConflictError among them, if nothing acts or others decided meanwhile.
        """
        history = self.registry.history()
        seen, serving = len(history.decisions), history.newest
        if serving is None:
            raise RegistryError(
                "expected a bundle that acts, to fine-tune it; there is none: "
                "python -m jobs bundles publish FOLDER, then promote VERSION"
            )
        published = self.registry.bundles.find(serving.bundle_version)
        parent = read_parent(self.registry.bundles.place(published), serving.sha256)
        parts = self.samples.parts()
        new = self.samples.unlearned(learned(parent))
        if new is None or len(new) < settings.least_sessions:
            return None
        run = self.folder / "runs" / f"{parts[-1].number:06d}-{serving.bundle_version}"
        if state_of(run) in ("promoted", "rejected"):
            return None
        slices = split_by_time(new, None, None, settings.test_share, settings.valid_share)
        window = {"from": int(new.times.min()), "to": int(new.times.max())}
        told = {**settings.model_dump(mode="json"), "parent": serving.bundle_version}
        with Run(run, told, window) as record:
            candidate = self._candidate(parent, slices, parts[-1], settings, progress, record)
            verdict = judge(candidate, parent.bundle, slices.test, settings.gate, progress)
            active_from = max(active_from, serving.active_from)
            online = self.samples.click_rates(parts[-1])
            decision = self._decide(candidate, verdict, active_from, online, seen)
            buffer = read_buffer(self._buffer)
            write_buffer(self._buffer, refreshed(buffer, new, settings.replay_sessions))
            record.finish(
                decision.decided,
                verdict.metrics,
                bundle_version=decision.bundle_version,
                reasons=verdict.reasons,
                click_rates=online,
            )
        return decision

    def _candidate(
        self,
        parent: Parent,
        slices: Slices,
        part: Part,
        settings: RoundSettings,
        progress: Progress,
        run: Run,
    ) -> Path:
        """Fine-tune and write the candidate's folder; it says what it has learned."""
        replay = self._replay(slices)
        fitted, bundle = finetune(parent, slices, replay, settings.finetune, progress, run.record)
        knows = {"part": part.number, "before": int(slices.test.ends[0])}
        fitted = replace(fitted, manifest={**fitted.manifest, "learned": knows})
        told = {
            "fit": parent.fit.model_dump(mode="json"),
            "finetune": settings.finetune.model_dump(mode="json"),
        }
        name = parent.bundle.version.rpartition("-")[0]
        unmeasured: dict[str, Any] = {"metrics": {}, "test_prefixes": 0}
        files, manifest = finished(name, fitted, bundle, slices, unmeasured, told, replay)
        shutil.rmtree(self.folder / "candidate", ignore_errors=True)
        path = self.folder / "candidate" / manifest["bundle_version"]
        publish(path, files, manifest, replace=False)
        return path

    def _replay(self, slices: Slices) -> SessionLog | None:
        """The replay buffer without the sessions that are new."""
        buffer = read_buffer(self._buffer)
        if buffer is None:
            return None
        new = np.concatenate([session_keys(log) for log in (slices.train, slices.valid)])
        old = np.flatnonzero(~np.isin(session_keys(buffer), [*new, *session_keys(slices.test)]))
        return chosen(buffer, old) if len(old) else None

    def _decide(
        self,
        candidate: Path,
        verdict: Verdict,
        active_from: int,
        online: dict[str, Any],
        seen: int,
    ) -> Decision:
        """Publish and promote, or reject; what was decided about the candidate before, stays."""
        version, why = candidate.name, "; ".join(verdict.reasons)[:_LONGEST_WHY]
        metrics = {**verdict.metrics, **({"click_rates": online} if online else {})}
        decided = self.registry.history().about(version)
        if decided is not None:
            return decided
        if verdict.promoted:
            self.registry.publish(candidate)
            return self.registry.promote(version, active_from, why, metrics, after=seen)
        sha256 = hashlib.sha256((candidate / MANIFEST).read_bytes()).hexdigest()
        return self.registry.reject(version, sha256, active_from, why, metrics, after=seen)

    @property
    def _buffer(self) -> Path:
        return self.folder / "replay.parquet"


def learned(parent: Parent) -> Learned:
    """What a bundle was fitted on; one of `train` knows everything up to the end of its data."""
    told = parent.bundle.manifest.get("learned")
    if told is None:
        return Learned(part=1 << 62, before=parent.until_ms + 1)
    return Learned(int(told["part"]), int(told["before"]))
