"""Fine-tuning: from the bundle that serves and newer sessions to a candidate for its place.

    serving bundle ─ warm start ─┬─ train + replay ── encoder ─ candidates of valid ─ ranker
                                 └─ train + valid + replay ── encoder, as many epochs ─ candidate
    test ─ only measured: the gate judges on it

Items, co-visits and popularity are counted on from the bundle's; how the encoder learns on is said
in models/adaptation.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.adaptation import Lesson, Rehearsal, adapted
from models.bundle import Bundle, assemble
from models.catalogue import updated_catalogue
from models.covisits import counted
from models.export import export_ranker
from models.fitting import (
    FitSettings,
    Fitted,
    Slices,
    base_manifest,
    blank_ranker,
    known_rows,
    known_times,
    neighbours_of,
    part_files,
    ranking_task,
)
from models.ranker_training import fit_ranker
from models.sessions import SessionLog
from models.training import EncoderSettings, Progress, Record, unrecorded
from models.warm_start import Parent, ranker_weights, restored_encoder, starting_vectors


class FinetuneSettings(BaseModel):
    """How a bundle is fine-tuned; everything else is as its own fit was set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=6, ge=1, description="over the new sessions, at most")
    patience: int = Field(default=1, ge=0, description="epochs without improvement before it stops")
    batch: int = Field(default=1024, ge=2, description="targets in a step, about, replay included")
    learning_rate: float = Field(default=2e-3, gt=0, description="of Adam")
    ranker_learning_rate: float = Field(
        default=1e-3, gt=0, description="of Adam for the ranker, falling to 0"
    )
    replay_share: float = Field(
        default=0.5, ge=0, lt=1, description="of each batch, drawn from older sessions"
    )
    distillation: float = Field(
        default=0.8, ge=0, description="weight of agreeing with the serving encoder on them"
    )
    min_count: int = Field(
        default=2, ge=1, description="times a new item must occur to get into the catalogue"
    )
    seed: int = Field(default=0, ge=0, description="of everything random")

    def encoder(self, of_parent: EncoderSettings, epochs: int) -> EncoderSettings:
        """How its encoder is fitted on: what is not said here stays."""
        own = self.model_dump(include={"patience", "batch", "learning_rate"})
        return of_parent.model_copy(update={**own, "epochs": epochs})


def finetune(
    parent: Parent,
    slices: Slices,
    replay: SessionLog | None,
    settings: FinetuneSettings,
    progress: Progress,
    record: Record = unrecorded,
) -> tuple[Fitted, Bundle]:
    """Fine-tune a bundle on newer sessions; returns the candidate's files and the bundle they make.

    `replay` are sessions of before; without them, nothing is replayed or distilled.
    """
    fit = parent.fit.model_copy(update={"seed": settings.seed})
    base = {**base_manifest(fit), "parent": parent.bundle.version}
    task = _Task(parent, fit, settings, replay, progress)

    first, _, epochs = _parts(
        task, slices.train, slices.valid, settings.epochs, _in("trial", record)
    )
    trial = assemble(base, {**first, "ranker.onnx": export_ranker(blank_ranker(fit))})
    lists = ranking_task(trial, slices.valid, fit, progress)
    ranker = fit_ranker(
        lists,
        fit.ranker.model_copy(update={"learning_rate": settings.ranker_learning_rate}),
        fit.seed,
        progress,
        record,
        ranker_weights(parent.ranker),
    )

    everything = slices.train.joined(slices.valid)
    files, index, _ = _parts(task, everything, None, epochs, _in("final", record))
    files["ranker.onnx"] = export_ranker(ranker)
    manifest = {**base, "index": index, "encoder_epochs": [epochs]}
    return Fitted(files, manifest, [epochs]), assemble(manifest, files)


@dataclass(frozen=True)
class _Task:
    """What both passes of a fine-tune have in common."""

    parent: Parent
    fit: FitSettings
    settings: FinetuneSettings
    replay: SessionLog | None
    progress: Progress


def _parts(
    task: _Task, log: SessionLog, valid: SessionLog | None, epochs: int, record: Record
) -> tuple[dict[str, bytes], str, int]:
    """Files of everything but the ranker after the sessions of `log`; why this index; epochs."""
    parent, fit, settings = task.parent, task.fit, task.settings
    catalogue, code = updated_catalogue(
        parent.bundle.catalogue,
        parent.until_ms,
        log,
        {} if task.replay is None else task.replay.occurrences(),
        settings.min_count,
        fit.max_items,
        fit.recent_half_life_days,
    )
    moved = catalogue.places(parent.bundle.catalogue.item_ids)
    before = counted(
        parent.bundle.neighbours, parent.visits, parent.until_ms, moved, len(catalogue)
    )
    neighbours = neighbours_of(log, catalogue, code, fit.neighbours, before)
    lesson = Lesson(
        new=known_rows(log, code),
        replay=None
        if task.replay is None
        else known_rows(task.replay, catalogue.places(task.replay.facts.ids)),
        valid=None if valid is None else known_rows(valid, code),
        known=np.isin(np.arange(len(catalogue)), moved),
    )
    vectors = starting_vectors(parent.bundle.vectors, moved, neighbours)
    encoder, epochs = adapted(
        restored_encoder(parent.encoder, vectors, fit.encoder.dropout),
        lesson,
        Rehearsal(settings.replay_share, settings.distillation),
        fit.blend.recent,
        settings.encoder(fit.encoder, epochs),
        fit.seed,
        task.progress,
        record,
    )
    past = parent.bundle.past.recoded(moved, len(catalogue), fit.blend.knn).appended(
        lesson.new.items, lesson.new.session, known_times(log, code), fit.blend.knn
    )
    files, why = part_files(catalogue, neighbours, past, encoder, lesson.new, fit)
    return files, why, epochs


def _in(part: str, record: Record) -> Record:
    """The same record, with its curves below `part`."""
    return lambda curve, step, value: record(f"{part}/{curve}", step, value)
