"""A bundle: everything that answers, as one immutable, verified directory.

    manifest.json   hash and size of every file, schema, settings, metrics, data window
    encoder.onnx    item vectors → session vector          ranker.onnx   candidates → scores
    vectors.npy     item vectors [V, D]                    index.faiss   search over them
    items.arrow     the catalogue                          golden.json   questions and answers
    neighbour_items.npy, neighbour_weights.npy             what goes with what
    session_offsets.npy, session_items.npy, session_ends.npy          past sessions

Nothing is unpickled. How one is read and tried out: models/loading.py.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import onnxruntime as ort
import pyarrow as pa

from models.bundle_files import MANIFEST, BundleError
from models.candidates import CANDIDATE_FEATURES, SESSION_CONTEXT, Blend
from models.catalogue import Catalogue
from models.covisits import Neighbours
from models.networks import open_network
from models.onnx_scan import check_onnx
from models.past_sessions import PastSessions, restored
from udfs.session_features import SCHEMA_VERSION

__all__ = ["FORMAT", "Bundle", "BundleError", "assemble", "feature_schema"]

FORMAT = 2
TREND = 1.5  # an item is trending if its recent share is this many times its share of all time


@dataclass(frozen=True)
class Bundle:
    """The loaded parts; V items, vectors of D numbers, K neighbours an item."""

    version: str
    manifest: Mapping[str, Any]
    catalogue: Catalogue
    vectors: np.ndarray  # float32 [V, D]
    neighbours: Neighbours
    past: PastSessions
    index: faiss.Index
    encoder: ort.InferenceSession
    ranker: ort.InferenceSession
    blend: Blend
    texts: Mapping[str, str]  # wording of reasons
    popular: np.ndarray  # int64 [V], items by recent popularity
    trending: np.ndarray  # bool [V]


def feature_schema() -> dict[str, Any]:
    """What this code computes for the ranker; a bundle made for anything else is refused."""
    return {
        "version": SCHEMA_VERSION,
        "session": list(SESSION_CONTEXT),
        "candidate": list(CANDIDATE_FEATURES),
    }


def assemble(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Build a bundle from verified bytes; raises BundleError where parts do not fit together."""
    _check_schema(manifest)
    try:
        blend, texts = Blend(**manifest["blend"]), dict(manifest["texts"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"expected blend and texts in {MANIFEST}; {error}") from None
    catalogue = _catalogue(files["items.arrow"])
    vectors = _array(files, "vectors.npy", np.float32, (len(catalogue), None))
    dimension = vectors.shape[1]
    popularity = catalogue.static_features()
    return Bundle(
        version=str(manifest.get("bundle_version", "unversioned")),
        manifest=manifest,
        catalogue=catalogue,
        vectors=vectors,
        neighbours=_neighbours(files, len(catalogue)),
        past=_past(files, len(catalogue), blend),
        index=_index(files["index.faiss"], len(catalogue), dimension),
        encoder=_network(files, "encoder.onnx", {"vectors": dimension}, dimension),
        ranker=_network(
            files,
            "ranker.onnx",
            {"candidates": len(CANDIDATE_FEATURES), "sessions": len(SESSION_CONTEXT)},
            None,
        ),
        blend=blend,
        texts=texts,
        popular=np.argsort(-catalogue.recent, kind="stable"),
        trending=popularity[:, 2] > np.log(TREND),
    )


def _check_schema(manifest: Mapping[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise BundleError(f"expected format {FORMAT}; got {manifest.get('format')!r}; retrain it")
    if manifest.get("features") != feature_schema():
        raise BundleError(
            "expected the feature schema of this version; the bundle has another; retrain it"
        )


def _catalogue(data: bytes) -> Catalogue:
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            catalogue = Catalogue.from_table(reader.read_all())
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"expected the catalogue in items.arrow; {error}") from None
    if not len(catalogue) or len(catalogue.index) != len(catalogue):
        raise BundleError("expected at least one item and no item twice in items.arrow")
    if not np.isfinite(catalogue.static_features()).all():
        raise BundleError("expected finite numbers in items.arrow; got NaN or infinity")
    return catalogue


def _array(
    files: Mapping[str, bytes], name: str, kind: type, shape: tuple[int | None, ...]
) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(files[name]), allow_pickle=False)
    except ValueError as error:
        raise BundleError(f"expected an array in {name}; {error}") from None
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != kind or not fits:
        want = f"{np.dtype(kind).name} {shape}"
        raise BundleError(f"expected {want} in {name}; got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise BundleError(f"expected finite numbers in {name}; got NaN or infinity")
    return np.ascontiguousarray(array)


def _neighbours(files: Mapping[str, bytes], size: int) -> Neighbours:
    items = _array(files, "neighbour_items.npy", np.int32, (size, None))
    weights = _array(files, "neighbour_weights.npy", np.float16, (size, items.shape[1], 3))
    if items.size and not (items.min() >= 0 and items.max() < size):
        raise BundleError(f"expected neighbours between 0 and {size - 1}; got others")
    return Neighbours(items, weights.astype(np.float32))


def _past(files: Mapping[str, bytes], size: int, blend: Blend) -> PastSessions:
    kinds = {"offsets": np.int64, "items": np.int32, "ends": np.int64}
    arrays = {
        name: _array(files, f"session_{name}.npy", kind, (None,)) for name, kind in kinds.items()
    }
    try:
        return restored(**arrays, size=size, settings=blend.knn)
    except ValueError as error:
        raise BundleError(f"session_*.npy: {error}") from None


def _index(data: bytes, size: int, dimension: int) -> faiss.Index:
    try:
        index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except RuntimeError:
        raise BundleError("expected a FAISS index in index.faiss; it cannot be read") from None
    if (index.ntotal, index.d) != (size, dimension):
        raise BundleError(
            f"expected {size} vectors of {dimension} in index.faiss; "
            f"got {index.ntotal} of {index.d}"
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or not index.is_trained:
        raise BundleError("expected a trained inner-product index in index.faiss")
    return index


def _network(
    files: Mapping[str, bytes], name: str, widths: Mapping[str, int], out: int | None
) -> ort.InferenceSession:
    try:
        check_onnx(files[name])
        network = open_network(files[name])
    except Exception as error:  # the runtime's own exceptions have no common base
        raise BundleError(f"{name}: {error}") from None
    got = {each.name: each.shape[-1] for each in network.get_inputs()}
    for key, width in widths.items():
        if got.get(key) != width:
            raise BundleError(f"expected {name} to read {width} numbers as `{key}`; got {got}")
    result = network.get_outputs()[0].shape
    if out is not None and result[-1] != out:
        raise BundleError(f"expected {name} to give {out} numbers; got {result}")
    return network
