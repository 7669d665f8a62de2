"""What a fine-tune starts from: the weights, items and counts of the bundle that serves.

The encoder's weights are read from the tensors of encoder.onnx, by the names `export_encoder`
gives them, and the items' vectors from vectors.npy: a bundle is all that has to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import torch
from onnx import numpy_helper

from models.bundle import Bundle, assemble
from models.bundle_files import read_files
from models.covisits import Neighbours
from models.encoders import SessionEncoder
from models.fitting import FitSettings
from models.ranker_training import RankerWeights
from models.storage import Folder


@dataclass(frozen=True)
class Parent:
    """The bundle that is fine-tuned, with what only training reads of it."""

    bundle: Bundle
    encoder: bytes  # ONNX
    ranker: bytes  # ONNX
    visits: np.ndarray  # float64 [V], what its co-visits were divided by
    until_ms: int  # the end of its data
    fit: FitSettings


def read_parent(place: Folder | Path | str, sha256: str | None = None) -> Parent:
    """A bundle read for fine-tuning; raises like `load_bundle`, ValueError if it is foreign."""
    manifest, files = read_files(Folder.at(place), sha256)
    bundle = assemble(manifest, files)
    try:
        fit = FitSettings(**manifest["settings"]["fit"])
        until_ms = int(manifest["data_window"]["to"])
        return parent_of(bundle, files, until_ms, fit)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected settings.fit, data_window and visits in {bundle.version}; {error}; "
            "fine-tune a bundle that `train` made"
        ) from None


def parent_of(
    bundle: Bundle, files: Mapping[str, bytes], until_ms: int, fit: FitSettings
) -> Parent:
    """A bundle in memory, made of these files, that has learned what was until then."""
    visits = np.array(_items(files)["visits"].to_pylist(), np.float64)
    fit = fit.model_copy(update={"blend": bundle.blend})
    return Parent(bundle, files["encoder.onnx"], files["ranker.onnx"], visits, until_ms, fit)


def _items(files: Mapping[str, bytes]) -> pa.Table:
    with pa.ipc.open_file(pa.BufferReader(files["items.arrow"])) as reader:
        return reader.read_all()


def restored_encoder(data: bytes, vectors: np.ndarray, dropout: float) -> SessionEncoder:
    """The encoder that `export_encoder` wrote, to train on; vectors [V, D] are its items'.

    Raises ValueError for another network.
    """
    tensors = _tensors(data)
    try:
        towers = [_tower(tensors, f"{number}.") for number in range(len(tensors.get("parts", [0])))]
        kind = "+".join("gru" if "gru.weight_ih_l0" in each else "transformer" for each in towers)
        length = max((len(each["places"]) for each in towers if "places" in each), default=10)
        encoder = SessionEncoder(len(vectors), vectors.shape[1], dropout, kind, length)
        state = {"vectors.weight": torch.tensor(vectors)}
        for number, tower in enumerate(towers):
            state |= {f"towers.{number}.{name}": torch.tensor(w) for name, w in tower.items()}
        encoder.load_state_dict(state)
    except (LookupError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected towers and projections in encoder.onnx; {error}") from None
    return encoder


def _tower(tensors: dict[str, np.ndarray], own: str) -> dict[str, np.ndarray]:
    """The weights of the tower whose names begin with `own`, as torch calls and turns them."""
    weights = {name[len(own) :]: w for name, w in tensors.items() if name.startswith(own)}
    if "input" in weights:
        of_input, of_hidden = np.split(weights["bias"][0], 2)
        return {
            "gru.weight_ih_l0": _torch_gates(weights["input"][0]),
            "gru.weight_hh_l0": _torch_gates(weights["hidden"][0]),
            "gru.bias_ih_l0": _torch_gates(of_input),
            "gru.bias_hh_l0": _torch_gates(of_hidden),
            "project.weight": weights["project"],
            "project.bias": weights["offset"],
        }
    layers = {name: w for name, w in weights.items() if name.endswith((".weight", ".bias"))}
    inner = [name for name, w in layers.items() if w.ndim == 2 and name != "project.weight"]
    return {**layers, **{name: layers[name].T for name in inner}, "places": weights["places"]}


def ranker_weights(data: bytes) -> RankerWeights:
    """The weights of the ranker that `export_ranker` wrote; raises ValueError for another one."""
    weights = {name: torch.tensor(value) for name, value in _tensors(data).items()}
    try:
        return RankerWeights(
            weights["of_candidate"],
            weights["of_session"],
            weights["bias"],
            weights["out_weight"],
            weights["out_bias"],
        )
    except KeyError as error:
        raise ValueError(f"expected two layers in ranker.onnx; there is no {error}") from None


def _tensors(data: bytes) -> dict[str, np.ndarray]:
    tensors = onnx.load_from_string(data).graph.initializer
    return {each.name: numpy_helper.to_array(each) for each in tensors}


def _torch_gates(rows: np.ndarray) -> np.ndarray:
    """ONNX keeps update, reset, new one above the other; torch wants reset, update, new."""
    update, reset, new = np.split(rows, 3)
    return np.concatenate([reset, update, new])


def starting_vectors(vectors: np.ndarray, moved: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """Item vectors to start from, float32 [V, D]: those of before, and new ones in between.

    A new item starts at the mean of the known items it occurs with or that have a similar title,
    by their weights in `neighbours`; without any, at the mean of all. `vectors` [V0, D] are those
    of before, `moved` [V0] where they are now, -1 if nowhere.
    """
    size = len(neighbours.items)
    out = np.zeros((size, vectors.shape[1]), np.float32)
    out[moved[moved >= 0]] = vectors[moved >= 0]
    known = np.isin(np.arange(size), moved)
    new = np.flatnonzero(~known)
    near = neighbours.items[new]
    weights = neighbours.weights[new].sum(axis=2) * known[near]
    total = weights.sum(axis=1)
    mean = np.einsum("nk,nkd->nd", weights, out[near]) / np.maximum(total, 1e-9)[:, None]
    out[new] = np.where(total[:, None] > 0, mean, vectors.mean(axis=0))
    return out
