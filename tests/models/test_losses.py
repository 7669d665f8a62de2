"""Losses against what they are by definition."""

from __future__ import annotations

import pytest
import torch

from models.losses import full_softmax, listwise_softmax, sampled_softmax


def test_sampled_softmax_over_all_items_drawn_once_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    states, vectors = torch.randn(5, 4), torch.randn(7, 4)
    targets = torch.tensor([0, 1, 2, 3, 6])
    everything = torch.arange(7)  # the target is masked among the negatives and kept as positive
    got = sampled_softmax(states, vectors, targets, everything, torch.zeros(7))
    assert got.item() == pytest.approx(full_softmax(states, vectors, targets).item(), rel=1e-5)


def test_items_drawn_often_are_corrected_for() -> None:
    states, vectors = torch.ones(1, 2), torch.ones(3, 2)
    even = sampled_softmax(states, vectors, torch.tensor([0]), torch.tensor([1]), torch.zeros(3))
    often = torch.tensor([0.0, 5.0, 0.0])
    drawn = sampled_softmax(states, vectors, torch.tensor([0]), torch.tensor([1]), often)
    assert drawn < even


def test_listwise_softmax_equals_cross_entropy_of_each_list() -> None:
    scores = torch.tensor([1.0, 2.0, 0.5, 3.0, -1.0])
    rows, targets = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 3])
    first = torch.nn.functional.cross_entropy(scores[:3][None], torch.tensor([1]))
    second = torch.nn.functional.cross_entropy(scores[3:][None], torch.tensor([0]))
    got = listwise_softmax(scores, rows, targets, 2)
    assert got.item() == pytest.approx(((first + second) / 2).item(), rel=1e-5)


def test_large_scores_do_not_overflow() -> None:
    scores = torch.tensor([1e4, 0.0], requires_grad=True)
    loss = listwise_softmax(scores, torch.tensor([0, 0]), torch.tensor([0]), 1)
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
