"""Networks as ONNX bytes, each compared with torch before it is trusted."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch

from models.encoders import CandidateRanker, LastState, SessionEncoder
from models.networks import encode, open_network, score

OPSET = 17
TOLERANCE = 1e-4


def export_encoder(encoder: SessionEncoder, length: int) -> bytes:
    """The served part of the encoder: inputs vectors [B, L, D] and last [B]; output [B, D]."""
    model = LastState(encoder.cpu()).eval()
    dimension = encoder.vectors.embedding_dim
    data = _exported(
        model,
        (torch.zeros(3, length, dimension), torch.tensor([0, 1, 1])),
        ["vectors", "last"],
        {"vectors": {0: "sessions", 1: "items"}, "last": {0: "sessions"}},
    )
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((7, length, dimension)).astype(np.float32)
    lengths = rng.integers(1, length + 1, 7)
    with torch.no_grad():
        want = model(torch.as_tensor(vectors), torch.as_tensor(lengths - 1)).numpy()
    _compare("encoder", encode(open_network(data), vectors, lengths), want)
    return data


def export_ranker(ranker: CandidateRanker) -> bytes:
    """The ranker: inputs candidates [M, F], sessions [B, S], rows [M]; output [M]."""
    widths = ranker.of_candidate.in_features, ranker.of_session.in_features
    data = _exported(
        ranker.folded().eval(),
        (torch.zeros(5, widths[0]), torch.zeros(2, widths[1]), torch.tensor([0, 0, 0, 1, 1])),
        ["candidates", "sessions", "rows"],
        {"candidates": {0: "rows"}, "sessions": {0: "sessions"}, "rows": {0: "rows"}},
    )
    rng = np.random.default_rng(0)
    candidates = rng.standard_normal((40, widths[0])).astype(np.float32)
    sessions = np.abs(rng.standard_normal((4, widths[1]))).astype(np.float32) * 100
    rows = np.repeat(np.arange(4), 10)
    with torch.no_grad():
        want = ranker(*(torch.as_tensor(each) for each in (candidates, sessions, rows))).numpy()
    _compare("ranker", score(open_network(data), candidates, sessions, rows), want)
    return data


def _exported(
    model: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    names: list[str],
    axes: dict[str, dict[int, str]],
) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter says that a newer one exists
        torch.onnx.export(
            model,
            example,
            buffer,
            input_names=names,
            output_names=["out"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


def _compare(name: str, got: np.ndarray, want: np.ndarray) -> None:
    worst = float(np.abs(got - want).max() / (1.0 + np.abs(want).max()))
    if not worst <= TOLERANCE:
        raise ArithmeticError(
            f"expected the exported {name} to agree with torch within {TOLERANCE}; "
            f"it differs by {worst:.2g}"
        )
