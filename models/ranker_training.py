"""Fitting the ranker to lists of candidates, as retrieval really made them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.candidates import Candidates
from models.encoders import CandidateRanker
from models.losses import listwise_softmax
from models.training import Progress, Record, make_deterministic, unrecorded


class RankerSettings(BaseModel):
    """How the ranker is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int = Field(default=32, ge=1, description="units of its hidden layer")
    epochs: int = Field(default=6, ge=1, description="passes over the samples")
    batch: int = Field(default=64, ge=1, description="lists in a step")
    learning_rate: float = Field(default=3e-3, gt=0, description="of Adam, falling to 0")
    samples: int = Field(default=12_000, ge=1, description="validation prefixes it learns from")


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
