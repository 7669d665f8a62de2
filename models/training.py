"""Fitting the encoder: one seed, one result on one machine."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

from models.batching import ItemRows, batches
from models.encoders import SessionEncoder
from models.losses import full_softmax, sampled_softmax
from models.metrics import reciprocal_rank

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""

Record = Callable[[str, int, float], None]
"""Called with (curve, step, value)."""

_Batch = TypeVar("_Batch")


class EncoderSettings(BaseModel):
    """How the session encoder is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["gru", "transformer", "gru+transformer"] = Field(
        default="gru",
        description="GRU4Rec, SASRec, or the mean of both, each of half the dimension",
    )
    dimension: int = Field(default=64, ge=4, description="numbers of an item or session vector")
    epochs: int = Field(default=10, ge=1, description="at most")
    patience: int = Field(default=1, ge=0, description="epochs without improvement before it stops")
    batch: int = Field(default=2048, ge=1, description="targets in a step, about")
    learning_rate: float = Field(default=6e-3, gt=0, description="of Adam, falling along a cosine")
    dropout: float = Field(default=0.25, ge=0, lt=1, description="of item vectors and states")
    negatives: int = Field(
        default=1024, ge=0, description="items a batch is compared with; 0: the whole catalogue"
    )


def make_deterministic(seed: int, threads: int) -> torch.device:
    """Seed everything, allow only deterministic kernels; returns the device to train on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def unrecorded(curve: str, step: int, value: float) -> None:
    """A `Record` that keeps nothing."""


def fit_encoder(
    rows: ItemRows,
    valid: ItemRows | None,
    size: int,
    length: int,
    settings: EncoderSettings,
    seed: int,
    progress: Progress,
    epochs: Sequence[int] = (),
) -> tuple[SessionEncoder, list[int]]:
    """The encoder with the best MRR@20 on `valid` (without it: after all epochs).

    It reads the last `length` items of a session; `size` is the catalogue's. Its towers are fitted
    alone, each for as many `epochs` as given. Returned with the number of epochs of each.
    """
    kinds = settings.kind.split("+")
    fitted = [
        _fit_tower(
            rows,
            valid,
            size,
            length,
            settings.model_copy(
                update={
                    "kind": kind,
                    "dimension": settings.dimension // len(kinds),
                    "epochs": epochs[number] if epochs else settings.epochs,
                }
            ),
            seed + number,
            progress,
        )
        for number, kind in enumerate(kinds)
    ]
    took = [best for _, best in fitted]
    if len(fitted) == 1:
        return fitted[0][0], took
    return SessionEncoder.joined([each for each, _ in fitted], settings.dropout).eval(), took


def _fit_tower(
    rows: ItemRows,
    valid: ItemRows | None,
    size: int,
    length: int,
    settings: EncoderSettings,
    seed: int,
    progress: Progress,
) -> tuple[SessionEncoder, int]:
    device = make_deterministic(seed, torch.get_num_threads())
    rng = np.random.default_rng(seed)
    encoder = SessionEncoder(size, settings.dimension, settings.dropout, settings.kind, length)
    encoder = encoder.to(device)
    negatives = Negatives.by_counts(rows.items, size, settings.negatives)

    def loss(batch: np.ndarray) -> torch.Tensor:
        found, targets = states(encoder, batch)
        found = encoder.dropout(found)
        return negatives.loss(found, encoder.vectors.weight, targets, negatives.drawn(rng))

    def epoch() -> list[np.ndarray]:
        return list(batches(rows, length, settings.batch, rng))

    return trained(encoder, epoch, loss, valid, length, settings, progress)


def trained(
    encoder: SessionEncoder,
    epoch: Callable[[], list[_Batch]],
    loss: Callable[[_Batch], torch.Tensor],
    valid: ItemRows | None,
    length: int,
    settings: EncoderSettings,
    progress: Progress,
    record: Record = unrecorded,
    warm: bool = False,
) -> tuple[SessionEncoder, int]:
    """The state of the encoder with the best MRR@20 on `valid`, and the epochs it took.

    `epoch` makes the batches of an epoch, `loss` is that of one. With `warm`, the encoder as it
    comes is the best so far.
    """
    optimiser = torch.optim.Adam(encoder.parameters(), settings.learning_rate)
    best, best_epoch, best_state = -1.0, 0, copy.deepcopy(encoder.state_dict())

    def judged(held_out: ItemRows, number: int) -> float:
        loss, quality = validated(encoder, held_out, length, settings.batch)
        record("encoder/validation_loss", number, loss)
        record("encoder/validation_mrr20", number, quality)
        return quality

    if warm and valid is not None:
        best = judged(valid, 0)
    for number in range(1, settings.epochs + 1):
        encoder.train()
        todo = epoch()
        for step, batch in enumerate(todo):
            _slow_down(optimiser, settings, (number - 1 + step / len(todo)) / settings.epochs)
            value = loss(batch)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            progress(f"{encoder.kind}, epoch {number}", step + 1, len(todo))
            record("encoder/loss", (number - 1) * len(todo) + step, value.item())
        if valid is None:
            best_epoch, best_state = number, encoder.state_dict()
            continue
        quality = judged(valid, number)
        if quality > best:
            best, best_epoch = quality, number
            best_state = copy.deepcopy(encoder.state_dict())
        elif number - best_epoch > settings.patience:
            break
    encoder.load_state_dict(best_state)
    return encoder.eval(), best_epoch


def _slow_down(optimiser: torch.optim.Optimizer, settings: EncoderSettings, done: float) -> None:
    """Let the learning rate fall along half a cosine, to a twentieth at the end."""
    rate = settings.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
    for group in optimiser.param_groups:
        group["lr"] = rate


@dataclass(frozen=True, slots=True)
class Negatives:
    """The items a batch is compared with: drawn by the square root of how often they occur."""

    count: int  # 0: the whole catalogue
    chance: np.ndarray  # float64 [V]

    @classmethod
    def by_counts(cls, items: np.ndarray, size: int, count: int) -> Negatives:
        """For a catalogue of `size` items that occur as often as they are in `items` [N]."""
        root = (np.bincount(items, minlength=size) + 1.0) ** 0.5
        return cls(count if count < size else 0, root / root.sum())

    def drawn(self, rng: np.random.Generator) -> torch.Tensor | None:
        """Items for one batch, int64 [count]; None for the whole catalogue."""
        if not self.count:
            return None
        return torch.as_tensor(rng.choice(len(self.chance), self.count, p=self.chance))

    def log_q(self, device: torch.device) -> torch.Tensor:
        """The log of how likely each item is drawn, float32 [V]; 0 where all of them are."""
        log_q = np.log(self.chance) if self.count else np.zeros(len(self.chance))
        return torch.as_tensor(log_q, dtype=torch.float32, device=device)

    def loss(
        self,
        states: torch.Tensor,
        vectors: torch.Tensor,
        targets: torch.Tensor,
        drawn: torch.Tensor | None,
    ) -> torch.Tensor:
        """Cross-entropy of the targets [N] among the drawn items: states [N, D], vectors [V, D]."""
        if drawn is None:
            return full_softmax(states, vectors, targets)
        device = states.device
        return sampled_softmax(states, vectors, targets, drawn.to(device), self.log_q(device))


def states(encoder: SessionEncoder, batch: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """States and the items that followed, of all real places: [N, D] and [N]."""
    device = encoder.vectors.weight.device
    batch = batch[:, : int((batch >= 0).sum(1).max(initial=2))]
    following = batch[:, 1:]
    real = torch.as_tensor(following >= 0, device=device)
    items = torch.as_tensor(np.maximum(batch[:, :-1], 0), device=device)
    return encoder(items)[real], torch.as_tensor(following, device=device)[real]


def validated(
    encoder: SessionEncoder, valid: ItemRows, length: int, batch_size: int
) -> tuple[float, float]:
    """Mean cross-entropy and MRR@20 over the whole catalogue of at most 20,000 targets."""
    encoder.eval()
    total, ranks, count = 0.0, [np.empty(0, np.int64)], 0
    with torch.no_grad():
        for batch in batches(valid, length, batch_size, None):
            found, targets = states(encoder, batch)
            scores = found @ encoder.vectors.weight.T
            total += float(F.cross_entropy(scores, targets, reduction="sum"))
            own = scores.gather(1, targets[:, None])
            ranks.append((scores >= own).sum(1).cpu().numpy())
            count += len(targets)
            if count >= 20_000:
                break
    return total / max(count, 1), reciprocal_rank(np.concatenate(ranks))
