"""Networks as ONNX bytes, each compared with torch before it is trusted.

The graphs are written node by node: a list alone is answered in a few hundred microseconds, of
which every node that an exporter adds for shapes costs several.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from models.encoders import CandidateRanker, SessionEncoder
from models.networks import encode, open_network, score

OPSET = 17
IR_VERSION = 8
TOLERANCE = 1e-4


def export_encoder(encoder: SessionEncoder, length: int) -> bytes:
    """The served part of the encoder: inputs vectors [B, L, D] and lengths [B]; output [B, D]."""
    encoder = encoder.cpu().eval()
    gru, dimension = encoder.gru, encoder.vectors.embedding_dim
    weights = {
        "input": _gates(gru.weight_ih_l0)[None],
        "hidden": _gates(gru.weight_hh_l0)[None],
        "bias": np.concatenate([_gates(gru.bias_ih_l0), _gates(gru.bias_hh_l0)])[None],
        "project": _array(encoder.project.weight),
        "offset": _array(encoder.project.bias),
        "first": np.array([0]),
    }
    gates = ["steps", "input", "hidden", "bias", "lengths"]
    nodes = [
        helper.make_node("Transpose", ["vectors"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", gates, ["", "last"], hidden_size=dimension, linear_before_reset=1),
        helper.make_node("Squeeze", ["last", "first"], ["state"]),
        helper.make_node("Gemm", ["state", "project", "offset"], ["out"], transB=1),
    ]
    inputs = [
        _value("vectors", TensorProto.FLOAT, "sessions", "items", dimension),
        _value("lengths", TensorProto.INT32, "sessions"),
    ]
    output = _value("out", TensorProto.FLOAT, "sessions", dimension)
    data = _model("encoder", nodes, inputs, output, weights)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((7, length, dimension)).astype(np.float32)
    lengths = rng.integers(1, length + 1, 7)
    with torch.no_grad():
        want = encoder.states(torch.as_tensor(vectors))[np.arange(7), lengths - 1].numpy()
    _compare("encoder", encode(open_network(data), vectors, lengths), want)
    return data


def export_ranker(ranker: CandidateRanker) -> bytes:
    """The ranker: inputs candidates [M, F], sessions [B, S], rows [M]; output [M].

    Both standardisations are folded into the weights.
    """
    ranker = ranker.cpu().eval()
    candidate, session, bias = (_array(each) for each in ranker.folded())
    weights = {
        "of_candidate": candidate,
        "bias": bias,
        "of_session": session,
        "out_weight": _array(ranker.out.weight),
        "out_bias": _array(ranker.out.bias),
        "second": np.array([1]),
    }
    nodes = [
        helper.make_node("Gemm", ["candidates", "of_candidate", "bias"], ["own"], transB=1),
        helper.make_node("Gemm", ["sessions", "of_session"], ["known"], transB=1),
        helper.make_node("Gather", ["known", "rows"], ["shared"]),
        helper.make_node("Add", ["own", "shared"], ["joined"]),
        helper.make_node("Relu", ["joined"], ["active"]),
        helper.make_node("Gemm", ["active", "out_weight", "out_bias"], ["column"], transB=1),
        helper.make_node("Squeeze", ["column", "second"], ["out"]),
    ]
    widths = ranker.of_candidate.in_features, ranker.of_session.in_features
    inputs = [
        _value("candidates", TensorProto.FLOAT, "rows", widths[0]),
        _value("sessions", TensorProto.FLOAT, "sessions", widths[1]),
        _value("rows", TensorProto.INT64, "rows"),
    ]
    data = _model("ranker", nodes, inputs, _value("out", TensorProto.FLOAT, "rows"), weights)
    rng = np.random.default_rng(0)
    candidates = rng.standard_normal((40, widths[0])).astype(np.float32)
    sessions = np.log1p(np.abs(rng.standard_normal((4, widths[1]))) * 100).astype(np.float32)
    rows = np.repeat(np.arange(4), 10)
    with torch.no_grad():
        want = ranker(*(torch.as_tensor(each) for each in (candidates, sessions, rows))).numpy()
    _compare("ranker", score(open_network(data), candidates, sessions, rows), want)
    return data


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _gates(tensor: Tensor) -> np.ndarray:
    """Torch keeps reset, update, new one above the other; ONNX wants update, reset, new."""
    reset, update, new = np.split(_array(tensor), 3)
    return np.concatenate([update, reset, new])


def _value(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    weights: dict[str, np.ndarray],
) -> bytes:
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(each), key) for key, each in weights.items()
    ]
    graph = helper.make_graph(nodes, name, inputs, [output], constants)
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _compare(name: str, got: np.ndarray, want: np.ndarray) -> None:
    worst = float(np.abs(got - want).max() / (1.0 + np.abs(want).max()))
    if not worst <= TOLERANCE:
        raise ArithmeticError(
            f"expected the exported {name} to agree with torch within {TOLERANCE}; "
            f"it differs by {worst:.2g}"
        )
