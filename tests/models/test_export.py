"""Exported networks agree with torch, hold everything inside, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.encoders import CandidateRanker, SessionEncoder
from models.export import _compare, export_encoder, export_ranker
from models.networks import encode, open_network
from models.onnx_scan import check_onnx


@pytest.fixture(params=["gru", "transformer", "gru+transformer"])
def encoder(request: pytest.FixtureRequest) -> SessionEncoder:
    torch.manual_seed(1)
    return SessionEncoder(20, 8, 0.0, request.param, length=5).eval()


def test_the_served_state_is_the_one_of_the_last_item(encoder: SessionEncoder) -> None:
    network = open_network(export_encoder(encoder, 5))
    items = np.array([[3, 4, 5, 0, 0], [1, 2, 3, 4, 5]])
    vectors = encoder.vectors.weight.detach().numpy()[items]
    got = encode(network, vectors, np.array([3, 5]))
    with torch.no_grad():
        states = encoder(torch.as_tensor(items))
    assert got == pytest.approx(torch.stack([states[0, 2], states[1, 4]]).numpy(), abs=1e-5)


def test_padding_does_not_matter(encoder: SessionEncoder) -> None:
    network = open_network(export_encoder(encoder, 5))
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 5, 8)).astype(np.float32)
    other = vectors.copy()
    other[0, 1:], other[1, 3:] = 1e3, -1e3
    lengths = np.array([1, 3, 5])
    assert np.array_equal(encode(network, vectors, lengths), encode(network, other, lengths))


def test_a_session_has_the_same_bits_alone_and_in_any_batch(encoder: SessionEncoder) -> None:
    network = open_network(export_encoder(encoder, 5))
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 5, 8)).astype(np.float32)
    lengths = rng.integers(1, 6, 200)
    together = encode(network, vectors, lengths)
    for size in (1, 2, 3, 7, 64, 65):
        for at in range(0, 200 - size, 23):
            part = slice(at, at + size)
            longest = lengths[part].max()
            alone = encode(network, vectors[part, :longest], lengths[part])
            assert np.array_equal(alone, together[part])


def test_towers_that_were_fitted_alone_agree_with_themselves_together() -> None:
    torch.manual_seed(3)
    alone = [SessionEncoder(20, 8, 0.0, kind, 5).eval() for kind in ("gru", "transformer")]
    both = SessionEncoder.joined(alone, 0.0).eval()
    items = torch.arange(10).reshape(2, 5)
    with torch.no_grad():
        want = sum(each(items) @ each.vectors.weight.T for each in alone) / 2
        got = both(items) @ both.vectors.weight.T
    assert got.numpy() == pytest.approx(want.numpy(), abs=1e-5)


def test_exports_are_the_same_every_time_and_self_contained(encoder: SessionEncoder) -> None:
    torch.manual_seed(2)
    ranker = CandidateRanker(5, 3, 4)
    ranker.standardise(torch.randn(50, 5) * 3 + 1, torch.rand(20, 3))
    for make in (lambda: export_encoder(encoder, 5), lambda: export_ranker(ranker)):
        assert make() == make()
        check_onnx(make())


def test_an_export_that_differs_from_torch_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="expected the exported encoder to agree"):
        _compare("encoder", np.ones(3), np.ones(3) * 1.01)
    with pytest.raises(ArithmeticError, match="expected the exported encoder to agree"):
        _compare("encoder", np.array([np.nan]), np.ones(1))
