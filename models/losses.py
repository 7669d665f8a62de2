"""Losses as plain functions of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full_softmax(states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the whole catalogue: states [N, D], vectors [V, D], targets [N]."""
    return F.cross_entropy(states @ vectors.T, targets)


def sampled_softmax(
    states: Tensor, vectors: Tensor, targets: Tensor, negatives: Tensor, log_q: Tensor
) -> Tensor:
    """Cross-entropy against negatives shared by the batch, corrected for how they were drawn.

    negatives [K] are items, log_q [V] the log of how likely each item is drawn; a negative that
    is the target is masked (Bengio & Senécal 2008; logQ correction of Yi et al. 2019).
    """
    right = (states * vectors[targets]).sum(1) - log_q[targets]
    wrong = states @ vectors[negatives].T - log_q[negatives]
    wrong = wrong.masked_fill(negatives[None, :] == targets[:, None], -1e9)
    return (torch.logaddexp(torch.logsumexp(wrong, dim=1), right) - right).mean()


def distillation(
    states: Tensor, vectors: Tensor, taught: Tensor, teacher: Tensor, log_q: Tensor
) -> Tensor:
    """Cross-entropy against another model's softmax over the same K items (Hinton et al. 2015).

    states [N, D] and vectors [K, D] are ours, taught [N, D] and teacher [K, D] the other's;
    log_q [K] is the log of how likely each item is drawn, for which both are corrected.
    """
    wanted = (taught @ teacher.T - log_q).softmax(dim=1)
    return F.cross_entropy(states @ vectors.T - log_q, wanted)


def listwise_softmax(scores: Tensor, rows: Tensor, targets: Tensor, size: int) -> Tensor:
    """ListNet's top-one loss over ragged lists: scores [M], rows [M] → list, targets [size].

    targets are indices into scores, one for each list.
    """
    best = torch.full((size,), -torch.inf, device=scores.device)
    best = best.scatter_reduce(0, rows, scores.detach(), "amax")
    total = torch.zeros(size, device=scores.device)
    total = total.index_add(0, rows, torch.exp(scores - best[rows]))
    return (torch.log(total) + best - scores[targets]).mean()
