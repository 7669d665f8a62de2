"""Networks as ONNX bytes, each compared with torch before it is trusted.

The graphs are written node by node: a list alone is answered in a few hundred microseconds, of
which every node that an exporter adds for shapes costs several.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from models.encoders import CandidateRanker, GruTower, SessionEncoder, TransformerTower
from models.networks import encode, open_network, score

OPSET = 17
IR_VERSION = 8
TOLERANCE = 1e-4


def export_encoder(encoder: SessionEncoder, length: int) -> bytes:
    """The served part of the encoder: inputs vectors [B, L, D] and lengths [B]; output [B, D].

    With a transformer, L is `length` always: sums over places of another number have other bits.
    """
    encoder = encoder.cpu().eval()
    dimension, count = encoder.vectors.embedding_dim, len(encoder.towers)
    weights: dict[str, np.ndarray] = {}
    nodes, names = [], []
    if count > 1:
        names = [f"part{number}" for number in range(count)]
        weights["parts"] = np.full(count, encoder.part)
        nodes.append(helper.make_node("Split", ["vectors", "parts"], names, axis=2))
    for number, tower in enumerate(encoder.towers):
        make = _gru if isinstance(tower, GruTower) else _transformer
        made, own = make(tower, f"{number}.", names[number] if names else "vectors", 1 / count)
        nodes, weights = nodes + made, weights | own
    last = [f"{number}.said" for number in range(count)]
    nodes.append(helper.make_node("Concat", last, ["out"], axis=1))
    fixed = "transformer" in encoder.kind
    inputs = [
        _value("vectors", TensorProto.FLOAT, "sessions", length if fixed else "items", dimension),
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


_Part = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]


def _gru(tower: GruTower, own: str, vectors: str, share: float) -> _Part:
    """Nodes and weights of a tower, whose names begin with `own`; its output counts `share`."""
    gru = tower.gru
    weights = {
        "input": _gates(gru.weight_ih_l0)[None],
        "hidden": _gates(gru.weight_hh_l0)[None],
        "bias": np.concatenate([_gates(gru.bias_ih_l0), _gates(gru.bias_hh_l0)])[None],
        "project": _array(tower.project.weight),
        "offset": _array(tower.project.bias),
        "first": np.array([0]),
    }
    gates = ["steps", "input", "hidden", "bias", "lengths"]
    size: dict[str, Any] = {"hidden_size": gru.hidden_size, "linear_before_reset": 1}
    last: dict[str, Any] = {"transB": 1, "alpha": share, "beta": share}
    nodes = [
        helper.make_node("Transpose", [vectors], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", gates, ["", "last"], **size),
        helper.make_node("Squeeze", ["last", "first"], ["state"]),
        helper.make_node("Gemm", ["state", "project", "offset"], ["said"], **last),
    ]
    return _named(own, nodes, {vectors, "lengths"}), {own + key: w for key, w in weights.items()}


def _transformer(tower: TransformerTower, own: str, vectors: str, share: float) -> _Part:
    """The same of a transformer; its last block looks from the session's last place alone."""
    weights = {"places": _array(tower.places), "one": np.array([1])}
    length, dimension = weights["places"].shape
    weights["order"] = np.arange(length, dtype=np.int32)[None]
    weights["never"], weights["always"] = (np.array(each, np.float32) for each in (-1e9, 0))
    weights["scale"] = np.array(dimension**-0.5, np.float32)
    weights["later"] = np.triu(np.full((length, length), -1e9, np.float32), 1)
    for name, layer in tower.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.LayerNorm):
            weights[f"{name}.weight"] = _array(layer.weight).T
            weights[f"{name}.bias"] = _array(layer.bias)
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, inputs: list[str], out: str, **how: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [out], **how))
        return out

    def linear(value: str, layer: str, out: str) -> str:
        add("MatMul", [value, f"{layer}.weight"], f"{out}.product")
        return add("Add", [f"{out}.product", f"{layer}.bias"], out)

    def norm(value: str, layer: str, out: str) -> str:
        return add("LayerNormalization", [value, f"{layer}.weight", f"{layer}.bias"], out, axis=-1)

    add("Unsqueeze", ["lengths", "one"], "ends")
    add("Less", ["order", "ends"], "inside")
    add("Where", ["inside", "always", "never"], "outside")
    add("Unsqueeze", ["outside", "one"], "beyond")  # [B, 1, L]
    add("Cast", ["ends"], "counted", to=TensorProto.INT64)
    add("Sub", ["counted", "one"], "last")
    state = add("Add", [vectors, "places"], "state")
    for number in range(len(tower.blocks)):
        block, final = f"blocks.{number}", number == len(tower.blocks) - 1
        said = norm(state, f"{block}.before", f"{block}.said")
        asking, mask = said, "later"
        if final:  # [B, D], then [B, 1, D]
            asking = add("GatherND", [said, "last"], f"{block}.asking", batch_dims=1)
            state = add("GatherND", [state, "last"], f"{block}.own", batch_dims=1)
            mask = "beyond"
        query = linear(asking, f"{block}.query", f"{block}.queries")
        if final:
            query = add("Unsqueeze", [query, "one"], f"{block}.one_query")
        keys = linear(said, f"{block}.key", f"{block}.keys")
        values = linear(said, f"{block}.value", f"{block}.values")
        turned = add("Transpose", [keys], f"{block}.turned", perm=[0, 2, 1])
        add("MatMul", [query, turned], f"{block}.alike")
        add("Mul", [f"{block}.alike", "scale"], f"{block}.scaled")
        add("Add", [f"{block}.scaled", mask], f"{block}.masked")
        add("Softmax", [f"{block}.masked"], f"{block}.shares", axis=-1)
        found = add("MatMul", [f"{block}.shares", values], f"{block}.found")
        if final:
            found = add("Squeeze", [found, "one"], f"{block}.one_found")
        mixed = linear(found, f"{block}.mix", f"{block}.mixed")
        state = add("Add", [state, mixed], f"{block}.attended")
        inner = norm(state, f"{block}.between", f"{block}.normed")
        active = add("Relu", [linear(inner, f"{block}.up", f"{block}.wide")], f"{block}.active")
        state = add("Add", [state, linear(active, f"{block}.down", f"{block}.inner")], block)
    norm(state, "norm", "normed")
    weights["project.weight"] = weights["project.weight"].T
    last: dict[str, Any] = {"transB": 1, "alpha": share, "beta": share}
    nodes.append(
        helper.make_node("Gemm", ["normed", "project.weight", "project.bias"], ["said"], **last)
    )
    return _named(own, nodes, {vectors, "lengths"}), {own + key: w for key, w in weights.items()}


def _named(own: str, nodes: list[onnx.NodeProto], shared: set[str]) -> list[onnx.NodeProto]:
    """The nodes with names of their own, but for what all towers read."""
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [name if name in shared or not name else own + name for name in names]
    return nodes


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
