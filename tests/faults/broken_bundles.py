"""Ways in which a bundle is broken; each changes a sound one in its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from math import log1p
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.bundle_files import MANIFEST, manifest_text
from models.candidates import SESSION_CONTEXT
from tests.bundles import resigned

BREAKS: dict[str, Callable[[Path], None]] = {}
"""By name; a name says what is wrong."""


def breaks(change: Callable[[Path], None]) -> Callable[[Path], None]:
    BREAKS[change.__name__.replace("_", "-")] = change
    return change


@breaks
def missing_file(path: Path) -> None:
    (path / "ranker.onnx").unlink()


@breaks
def truncated_file(path: Path) -> None:
    data = (path / "index.faiss").read_bytes()
    (path / "index.faiss").write_bytes(data[: len(data) // 2])


@breaks
def other_hash(path: Path) -> None:
    data = (path / "items.arrow").read_bytes()
    (path / "items.arrow").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@breaks
def other_format(path: Path) -> None:
    resigned(path, format=99)


@breaks
def other_features(path: Path) -> None:
    schema = manifest(path)["features"]
    resigned(path, features={**schema, "session": schema["session"][::-1]})


@breaks
def vectors_of_other_shape(path: Path) -> None:
    np.save(path / "vectors.npy", np.load(path / "vectors.npy")[:-1])
    resigned(path)


@breaks
def nan_in_vectors(path: Path) -> None:
    vectors = np.load(path / "vectors.npy")
    vectors[17, 3] = np.nan
    np.save(path / "vectors.npy", vectors)
    resigned(path)


@breaks
def ranker_of_other_inputs(path: Path) -> None:
    shutil.copyfile(path / "encoder.onnx", path / "ranker.onnx")
    resigned(path)


@breaks
def other_golden_answers(path: Path) -> None:
    golden = json.loads((path / "golden.json").read_text())
    golden["scores"][0] = [score + 1 for score in golden["scores"][0]]
    (path / "golden.json").write_text(json.dumps(golden))
    resigned(path)


@breaks
def pickled_array(path: Path) -> None:
    np.save(path / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    resigned(path)


@breaks
def path_that_leads_outside(path: Path) -> None:
    told = manifest(path)
    told["files"]["../../secret"] = told["files"].pop("vectors.npy")
    (path / MANIFEST).write_bytes(manifest_text(told))


@breaks
def weights_outside_the_file(path: Path) -> None:
    model = onnx.load(path / "ranker.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (path / "ranker.onnx").write_bytes(model.SerializeToString())
    resigned(path)


def crack_ranker(path: Path, context: str, limit: float) -> None:
    """Let the ranker fail at run time, for all it is asked at once, where a session has more.

    `context` is the name of a number in models.candidates.SESSION_CONTEXT. The bundle is sound
    for sessions that have at most `limit`, and so for those of its golden batch.
    """
    model = onnx.load(path / "ranker.onnx")
    graph = model.graph
    scores, place = graph.output[0].name, SESSION_CONTEXT.index(context)
    for node in graph.node:
        node.output[:] = ["whole_scores" if name == scores else name for name in node.output]
    graph.initializer.extend(
        [
            helper.make_tensor("crack_place", TensorProto.INT64, [], [place]),
            helper.make_tensor("crack_limit", TensorProto.FLOAT, [], [log1p(limit)]),
            helper.make_tensor("crack_table", TensorProto.FLOAT, [1], [0.0]),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Gather", ["sessions", "crack_place"], ["crack_number"], axis=1),
            helper.make_node("Greater", ["crack_number", "crack_limit"], ["crack_open"]),
            helper.make_node("Cast", ["crack_open"], ["crack_row"], to=TensorProto.INT64),
            helper.make_node("Gather", ["crack_table", "crack_row"], ["crack_zeros"]),
            helper.make_node("ReduceMax", ["crack_zeros"], ["crack_zero"], keepdims=0),
            helper.make_node("Add", ["whole_scores", "crack_zero"], [scores]),
        ]
    )
    (path / "ranker.onnx").write_bytes(model.SerializeToString())
    resigned(path)


def manifest(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / MANIFEST).read_text()))
