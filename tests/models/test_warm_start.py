"""A fine-tune starts exactly where the bundle is, and new items between the known ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import BundleError
from models.covisits import Neighbours
from models.encoders import CandidateRanker, SessionEncoder
from models.export import export_encoder, export_ranker
from models.warm_start import (
    ranker_weights,
    read_parent,
    restored_encoder,
    starting_vectors,
)


@pytest.fixture(params=["gru", "transformer", "gru+transformer"])
def encoder(request: pytest.FixtureRequest) -> SessionEncoder:
    torch.manual_seed(1)
    return SessionEncoder(20, 8, 0.0, request.param, length=5).eval()


def test_an_exported_encoder_can_be_trained_on_and_exported_to_the_same_bytes(
    encoder: SessionEncoder,
) -> None:
    vectors = encoder.vectors.weight.detach().numpy()
    data = export_encoder(encoder, 5)
    restored = restored_encoder(data, vectors, dropout=0.1)
    own, again = encoder.state_dict(), restored.state_dict()
    assert all(torch.equal(own[name], again[name]) for name in own)
    assert export_encoder(restored, 5) == data


def test_only_an_encoder_is_restored(encoder: SessionEncoder) -> None:
    ranker = export_ranker(CandidateRanker(5, 3, 4))
    with pytest.raises(ValueError, match=r"expected towers and projections in encoder\.onnx"):
        restored_encoder(ranker, np.zeros((20, 8), np.float32), dropout=0.0)
    with pytest.raises(ValueError, match=r"expected towers and projections in encoder\.onnx"):
        restored_encoder(export_encoder(encoder, 5), np.zeros((20, 9), np.float32), dropout=0.0)


def test_an_exported_ranker_goes_on_with_the_same_scores_in_another_standardisation() -> None:
    torch.manual_seed(2)
    ranker, other = CandidateRanker(5, 3, 4), CandidateRanker(5, 3, 4)
    ranker.standardise(torch.randn(50, 5) * 3 + 1, torch.rand(20, 3))
    other.standardise(torch.randn(50, 5) * 2 - 1, torch.rand(20, 3) * 4)
    ranker_weights(export_ranker(ranker)).put_into(other)
    features = torch.randn(10, 5), torch.rand(2, 3), torch.tensor([0] * 6 + [1] * 4)
    assert other(*features).tolist() == pytest.approx(ranker(*features).tolist(), abs=1e-4)


def test_new_items_start_between_the_items_they_occur_with() -> None:
    neighbours = Neighbours(
        np.array([[1, 2], [0, 2], [0, 1], [0, 0]], np.int32),
        np.array(
            [[[1, 0, 0]] * 2, [[1, 0, 0], [0, 3, 0]], [[9, 9, 9]] * 2, [[0, 0, 0]] * 2], float
        ),
    )
    before = np.array([[4, 0], [0, 8], [7, 7]], np.float32)  # the second is gone
    got = starting_vectors(before, np.array([0, -1, 2]), neighbours)
    assert got[0].tolist() == [4, 0]
    assert got[2].tolist() == [7, 7]
    assert got[1] == pytest.approx(np.array([1 * 4 + 3 * 7, 3 * 7]) / 4)
    assert got[3] == pytest.approx(before.mean(0))


def test_what_cannot_be_fine_tuned_is_refused(serving: Path, bundle_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected settings\.fit, data_window and visits in"):
        read_parent(bundle_path)
    with pytest.raises(BundleError, match="there is none"):
        read_parent(serving / "nothing")
