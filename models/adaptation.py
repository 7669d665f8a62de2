"""How an encoder learns on: from new sessions, from replayed ones, and from what it said before.

    new sessions ────── half of a batch ─┬─ softmax over items ──────────────────────┬─ loss
    replayed sessions ─ half of a batch ─┴─ distillation from the serving encoder ───┘

Experience replay with distillation as in ADER (Mi et al. 2020): it learns what is new without
forgetting what is old.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import torch

from models.batching import ItemRows, batches
from models.encoders import SessionEncoder
from models.losses import distillation
from models.training import (
    EncoderSettings,
    Negatives,
    Progress,
    Record,
    make_deterministic,
    states,
    trained,
)


@dataclass(frozen=True)
class Lesson:
    """What the encoder learns from, in the items of the new catalogue."""

    new: ItemRows
    replay: ItemRows | None
    valid: ItemRows | None
    known: np.ndarray  # bool [V], the items that the serving encoder knows


@dataclass(frozen=True)
class Rehearsal:
    """How much what is old counts beside what is new."""

    share: float  # of each batch, replayed
    distillation: float  # weight of agreeing with the serving encoder on what is replayed


def adapted(
    start: SessionEncoder,
    lesson: Lesson,
    rehearsal: Rehearsal,
    length: int,
    settings: EncoderSettings,
    seed: int,
    progress: Progress,
    record: Record,
) -> tuple[SessionEncoder, int]:
    """The encoder fitted on from `start`, and for how many epochs."""
    device = make_deterministic(seed, torch.get_num_threads())
    rng = np.random.default_rng(seed)
    encoder = start.to(device)
    teacher = copy.deepcopy(encoder).eval()
    items = np.concatenate([part.items for part in (lesson.new, lesson.replay) if part is not None])
    negatives = Negatives.by_counts(items, len(lesson.known), settings.negatives)

    def loss(batch: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
        drawn = negatives.drawn(rng)
        return _loss(encoder, teacher, batch, negatives, drawn, lesson, rehearsal)

    def epoch() -> list[tuple[np.ndarray, np.ndarray]]:
        return mixed(lesson.new, lesson.replay, length, settings.batch, rehearsal.share, rng)

    return trained(
        encoder, epoch, loss, lesson.valid, length, settings, progress, record, warm=True
    )


def _loss(
    encoder: SessionEncoder,
    teacher: SessionEncoder,
    batch: tuple[np.ndarray, np.ndarray],
    negatives: Negatives,
    drawn: torch.Tensor | None,
    lesson: Lesson,
    rehearsal: Rehearsal,
) -> torch.Tensor:
    """Of the next items of a batch (new, replayed); and of what the teacher says of the latter."""
    found, targets = states(encoder, np.concatenate(batch))
    found, vectors = encoder.dropout(found), encoder.vectors.weight
    loss = negatives.loss(found, vectors, targets, drawn)
    replayed = int((batch[1][:, 1:] >= 0).sum())
    if replayed == 0 or rehearsal.distillation == 0:
        return loss
    items = np.arange(len(lesson.known)) if drawn is None else drawn.numpy()
    some = torch.as_tensor(items[lesson.known[items]], device=vectors.device)
    with torch.no_grad():
        taught, _ = states(teacher, batch[1])
    held = distillation(
        found[-replayed:],
        vectors[some],
        taught,
        teacher.vectors.weight[some],
        negatives.log_q(vectors.device)[some],
    )
    return loss + rehearsal.distillation * replayed / len(targets) * held


def mixed(
    new: ItemRows,
    replay: ItemRows | None,
    length: int,
    batch: int,
    share: float,
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """An epoch over the new sessions, each batch (new, replayed): int64 [B, length + 1] both.

    Replayed sessions are gone through again and again until there are enough of them.
    """
    old = max(int(batch * share), 1)
    if share == 0 or replay is None or next(batches(replay, length, old, None), None) is None:
        return [(part, part[:0]) for part in batches(new, length, batch, rng)]
    again: Iterator[np.ndarray] = chain.from_iterable(
        batches(replay, length, old, rng) for _ in count()
    )
    fresh = batches(new, length, max(batch - old, 1), rng)
    return list(zip(fresh, again, strict=False))
