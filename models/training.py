"""Fitting the encoder and the ranker: one seed, one result on one machine."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.candidates import Candidates
from models.encoders import CandidateRanker, SessionEncoder
from models.losses import full_softmax, listwise_softmax, sampled_softmax

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


class RankerSettings(BaseModel):
    """How the ranker is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int = Field(default=32, ge=1, description="units of its hidden layer")
    epochs: int = Field(default=6, ge=1, description="passes over the samples")
    batch: int = Field(default=64, ge=1, description="lists in a step")
    learning_rate: float = Field(default=3e-3, gt=0, description="of Adam, falling to 0")
    samples: int = Field(default=12_000, ge=1, description="validation prefixes it learns from")


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Rows of known items in session order: items, session int64 [N]."""

    items: np.ndarray
    session: np.ndarray


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
    """The encoder with the best validation loss (without `valid`: after all epochs).

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
    """The state of the encoder with the best validation loss, and the epochs it took.

    `epoch` makes the batches of an epoch, `loss` is that of one. With `warm`, the encoder as it
    comes is the best so far.
    """
    optimiser = torch.optim.Adam(encoder.parameters(), settings.learning_rate)
    best, best_epoch, best_state = np.inf, 0, copy.deepcopy(encoder.state_dict())
    if warm and valid is not None:
        best = validation_loss(encoder, valid, length, settings.batch)
        record("encoder/validation_loss", 0, best)
    for number in range(1, settings.epochs + 1):
        encoder.train()
        todo = epoch()
        for step, batch in enumerate(todo):
            _slow_down(optimiser, settings, (number - 1 + step / len(todo)) / settings.epochs)
            value = loss(batch)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            progress(f"encoder, epoch {number}", step + 1, len(todo))
            record("encoder/loss", (number - 1) * len(todo) + step, value.item())
        if valid is None:
            best_epoch, best_state = number, encoder.state_dict()
            continue
        loss_now = validation_loss(encoder, valid, length, settings.batch)
        record("encoder/validation_loss", number, loss_now)
        if loss_now < best:
            best, best_epoch = loss_now, number
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


def batches(
    rows: ItemRows, length: int, batch_size: int, rng: np.random.Generator | None
) -> Iterator[np.ndarray]:
    """Chunks of sessions as int64 [B, length + 1], -1 behind the end; shuffled with `rng`."""
    starts = np.flatnonzero(np.append(True, np.diff(rows.session) != 0))
    counts = np.diff(np.append(starts, len(rows.items)))
    if rng is not None:  # long sessions are cut at other places in every epoch
        shift = rng.integers(0, length, len(starts)) * (counts > length + 1)
    else:
        shift = np.zeros(len(starts), np.int64)
    pieces = np.maximum((counts + shift - 2) // length + 1, 1)
    owner = np.repeat(np.arange(len(starts)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    low = starts[owner] + number * length - shift[owner]
    high = np.minimum(low + length + 1, starts[owner] + counts[owner])
    low = np.maximum(low, starts[owner])
    some = high - low >= 2
    low, high = low[some], high[some]
    order = rng.permutation(len(low)) if rng is not None else np.arange(len(low))
    targets = np.cumsum((high - low - 1)[order])
    if len(targets) == 0:
        return
    cuts = np.searchsorted(targets, np.arange(batch_size, targets[-1], batch_size))
    for part in np.split(order, cuts):
        if len(part):
            place = low[part, None] + np.arange(length + 1)
            inside = place < high[part, None]
            yield np.where(inside, rows.items[np.minimum(place, len(rows.items) - 1)], -1)


def states(encoder: SessionEncoder, batch: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """States and the items that followed, of all real places: [N, D] and [N]."""
    device = encoder.vectors.weight.device
    following = batch[:, 1:]
    real = torch.as_tensor(following >= 0, device=device)
    items = torch.as_tensor(np.maximum(batch[:, :-1], 0), device=device)
    return encoder(items)[real], torch.as_tensor(following, device=device)[real]


def validation_loss(
    encoder: SessionEncoder, valid: ItemRows, length: int, batch_size: int
) -> float:
    """Mean cross-entropy over the whole catalogue of at most 20,000 targets."""
    encoder.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches(valid, length, batch_size, None):
            found, targets = states(encoder, batch)
            loss = full_softmax(found, encoder.vectors.weight, targets)
            total, count = total + float(loss) * len(targets), count + len(targets)
            if count >= 20_000:
                break
    return total / max(count, 1)


@dataclass(frozen=True, slots=True)
class RankingTask:
    """Lists of candidates with their right answers, in chunks as retrieval made them."""

    candidates: list[Candidates]
    sessions: list[np.ndarray]  # float32 [B, S] for each chunk
    targets: list[np.ndarray]  # int64 [B] for each chunk: candidate index, -1 if not among them


@dataclass(frozen=True, slots=True)
class RankerWeights:
    """Of a ranker of H units for raw features, as it is served."""

    candidate: torch.Tensor  # [H, F]
    session: torch.Tensor  # [H, S]
    bias: torch.Tensor  # [H]
    out: torch.Tensor  # [1, H]
    out_bias: torch.Tensor  # [1]

    def put_into(self, ranker: CandidateRanker) -> None:
        """Let a ranker that was standardised give the same scores."""
        ranker.take(self.candidate, self.session, self.bias)
        ranker.out.load_state_dict({"weight": self.out, "bias": self.out_bias})


def fit_ranker(
    task: RankingTask,
    settings: RankerSettings,
    seed: int,
    progress: Progress,
    record: Record = unrecorded,
    start: RankerWeights | None = None,
) -> CandidateRanker:
    """Fit a ranker to put what came next first among the candidates.

    It goes on from `start`, unless that has become worse than knowing nothing.
    """
    make_deterministic(seed, torch.get_num_threads())
    lists = _usable_lists(task)
    features = [torch.as_tensor(c.features) for c in task.candidates]
    sessions = [torch.as_tensor(s) for s in task.sessions]
    ranker = CandidateRanker(features[0].shape[1], sessions[0].shape[1], settings.hidden)
    ranker.standardise(torch.cat(features[:100]), torch.cat(sessions))
    if start is not None:
        warm = copy.deepcopy(ranker)
        start.put_into(warm)
        losses = [_loss(each, task, features, sessions, lists) for each in (warm, ranker)]
        if losses[0] < losses[1]:
            ranker = warm
    optimiser = torch.optim.Adam(ranker.parameters(), settings.learning_rate)
    rng = np.random.default_rng(seed)
    steps = -(-len(lists) // settings.batch) * settings.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    done = 0
    for _ in range(settings.epochs):
        order = rng.permutation(len(lists))
        for at in range(0, len(lists), settings.batch):
            part = lists[order[at : at + settings.batch]]
            batch = _joined(task, features, sessions, part)
            loss = listwise_softmax(ranker(*batch[:3]), batch[2], batch[3], len(part))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            done += 1
            progress("ranker", done, steps)
            record("ranker/loss", done, loss.item())
    return ranker.eval()


def _loss(
    ranker: CandidateRanker,
    task: RankingTask,
    features: list[torch.Tensor],
    sessions: list[torch.Tensor],
    lists: np.ndarray,
) -> float:
    """Mean loss over at most 1,000 of the given lists; infinite where it is no number."""
    some = lists[np.linspace(0, len(lists) - 1, min(len(lists), 1000)).astype(int)]
    batch = _joined(task, features, sessions, some)
    with torch.no_grad():
        loss = float(listwise_softmax(ranker(*batch[:3]), batch[2], batch[3], len(some)))
    return loss if np.isfinite(loss) else np.inf


def _usable_lists(task: RankingTask) -> np.ndarray:
    """(chunk, session) of the lists that hold their right answer: int64 [K, 2]."""
    found = [
        np.stack([np.full((target >= 0).sum(), chunk), np.flatnonzero(target >= 0)], axis=1)
        for chunk, target in enumerate(task.targets)
    ]
    lists = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    if len(lists) == 0:
        raise ValueError(
            "expected sessions in the validation slice whose next item can be found; got none; "
            "give more data or a larger `split.valid_share`"
        )
    return lists


def _joined(
    task: RankingTask,
    features: list[torch.Tensor],
    sessions: list[torch.Tensor],
    lists: np.ndarray,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [M, F], sessions [B, S], rows [M] and targets [B] of the given lists."""
    bounds = [task.candidates[c].starts[s : s + 2].tolist() for c, s in lists.tolist()]
    parts = [features[c][a:b] for (c, _), (a, b) in zip(lists.tolist(), bounds, strict=True)]
    lengths = torch.tensor([len(part) for part in parts])
    begins = torch.cumsum(lengths, 0) - lengths
    targets = torch.tensor(
        [int(task.targets[c][s]) - a for (c, s), (a, _) in zip(lists.tolist(), bounds, strict=True)]
    )
    context = torch.stack([sessions[c][s] for c, s in lists.tolist()])
    rows = torch.repeat_interleave(torch.arange(len(parts)), lengths)
    return torch.cat(parts), context, rows, begins + targets
