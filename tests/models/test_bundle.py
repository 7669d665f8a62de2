"""A sound bundle loads; every kind of damage is refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import onnx
import pytest

from models.bundle import FORMAT, BundleError
from models.bundle_files import FILES, MANIFEST, read_files, write_files
from models.loading import load_bundle
from models.recommender import Recommender
from models.storage import Folder
from models.synthetic import synthetic_sessions, write_synthetic_bundle
from tests.bundles import resigned
from udfs.session_features import session_features


@pytest.fixture
def path(bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_path, tmp_path / "copy"))


def refused(path: Path, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        load_bundle(path)


def test_a_bundle_loads_and_answers_as_before(bundle_path: Path, path: Path) -> None:
    first, second = load_bundle(bundle_path), load_bundle(path)
    batch = synthetic_sessions(first, 20, seed=1)
    features = session_features(batch)
    answers = Recommender(first).recommend(batch, features)
    assert Recommender(second).recommend(batch, features) == answers


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "expected a bundle directory")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(path: Path, name: str) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:-3])
    refused(path, rf"expected \d+ bytes in {name}")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(bytes(data))
    refused(path, f"{name} does not have the hash")


def test_a_longer_file_is_refused(path: Path) -> None:
    (path / "index.faiss").write_bytes((path / "index.faiss").read_bytes() + b"x")
    refused(path, "got more")


def test_an_unknown_file_is_refused(path: Path) -> None:
    (path / "extra.bin").write_bytes(b"x")
    refused(path, "unknown: extra.bin")


def test_a_missing_file_is_refused(path: Path) -> None:
    (path / "ranker.onnx").unlink()
    refused(path, "missing: ranker.onnx")


def test_a_linked_file_is_refused(path: Path, bundle_path: Path) -> None:
    (path / "vectors.npy").unlink()
    (path / "vectors.npy").symlink_to(bundle_path / "vectors.npy")
    refused(path, "expected a plain file vectors.npy")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"files": {}}', "[" * 100_000])
def test_a_broken_manifest_is_refused(path: Path, text: str) -> None:
    (path / MANIFEST).write_text(text)
    refused(path, "expected|not valid JSON")


def test_another_format_is_refused(path: Path) -> None:
    resigned(path, format=99)
    refused(path, f"expected format {FORMAT}; got 99")


def test_another_feature_schema_is_refused(path: Path) -> None:
    schema = json.loads((path / MANIFEST).read_text())["features"]
    resigned(path, features={**schema, "session": schema["session"][::-1]})
    refused(path, "feature schema")


def test_a_wrong_blend_is_refused(path: Path) -> None:
    resigned(path, blend={"recent": -1})
    refused(path, "expected blend")


def spoil(model: onnx.ModelProto) -> None:
    weights = np.frombuffer(model.graph.initializer[0].raw_data, "<f4").copy()
    weights[0] = np.nan
    model.graph.initializer[0].raw_data = weights.tobytes()


def make_external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


@pytest.mark.parametrize(
    ("change", "reason"),
    [(spoil, "expected finite weights"), (make_external, "expected all weights inside")],
)
@pytest.mark.parametrize("name", ["encoder.onnx", "ranker.onnx"])
def test_bad_weights_in_a_network_are_refused(
    path: Path, name: str, change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    model = onnx.load(path / name)
    change(model)
    (path / name).write_bytes(model.SerializeToString())
    resigned(path)
    refused(path, f"{name}: {reason}")


def test_a_network_for_other_features_is_refused(path: Path) -> None:
    shutil.copyfile(path / "encoder.onnx", path / "ranker.onnx")
    resigned(path)
    refused(path, "expected ranker.onnx to read")


def test_nan_among_the_vectors_is_refused(path: Path) -> None:
    vectors = np.load(path / "vectors.npy")
    vectors[5, 5] = np.nan
    np.save(path / "vectors.npy", vectors)
    resigned(path)
    refused(path, "expected finite numbers in vectors.npy")


def test_pickled_arrays_are_refused(path: Path) -> None:
    np.save(path / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    resigned(path)
    refused(path, r"expected an array in vectors\.npy")


def test_neighbours_outside_the_catalogue_are_refused(path: Path) -> None:
    items = np.load(path / "neighbour_items.npy")
    items[0, 0] = 400
    np.save(path / "neighbour_items.npy", items)
    resigned(path)
    refused(path, "expected neighbours between 0 and 399")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (faiss.IndexFlatIP(64), "got 0 of 64"),
        (faiss.IndexFlatIP(32), "got 0 of 32"),
        (faiss.IndexFlatL2(64), "inner-product"),
    ],
)
def test_a_foreign_index_is_refused(path: Path, index: faiss.Index, reason: str) -> None:
    if index.metric_type == faiss.METRIC_L2:
        index.add(np.load(path / "vectors.npy"))
    (path / "index.faiss").write_bytes(faiss.serialize_index(index).tobytes())
    resigned(path)
    refused(path, reason)


def test_an_index_over_other_vectors_is_refused_by_the_golden_batch(path: Path) -> None:
    index = faiss.IndexFlatIP(64)
    index.add(np.load(path / "vectors.npy")[::-1].copy())
    (path / "index.faiss").write_bytes(faiss.serialize_index(index).tobytes())
    resigned(path)
    refused(path, "expected the stored answer")


def test_garbage_instead_of_an_index_or_a_table_is_refused(path: Path) -> None:
    for name, reason in (("index.faiss", "cannot be read"), ("items.arrow", "expected the cata")):
        data = (path / name).read_bytes()
        (path / name).write_bytes(b"garbage " * 10)
        resigned(path)
        refused(path, reason)
        (path / name).write_bytes(data)


def test_wrong_golden_answers_are_refused(path: Path) -> None:
    golden = json.loads((path / "golden.json").read_text())
    ids = golden["item_ids"][0]
    ids[0], ids[-1] = ids[-1], ids[0]
    (path / "golden.json").write_text(json.dumps(golden))
    resigned(path)
    refused(path, "expected the stored answer to golden session 0")


def test_other_golden_scores_are_refused(path: Path) -> None:
    golden = json.loads((path / "golden.json").read_text())
    golden["scores"][1] = [score + 0.1 for score in golden["scores"][1]]
    (path / "golden.json").write_text(json.dumps(golden))
    resigned(path)
    refused(path, "expected the stored answer to golden session 1")


def test_a_golden_batch_that_asks_nothing_is_refused(path: Path) -> None:
    (path / "golden.json").write_text("{}")
    resigned(path)
    refused(path, "golden.json")


def test_a_bundle_never_overwrites_another(bundle_path: Path, path: Path) -> None:
    _, files = read_files(Folder.at(bundle_path))
    before = (path / MANIFEST).read_bytes()
    write_files(path, files, before, replace=False)  # the same one: nothing to do
    with pytest.raises(BundleError, match="expected no other bundle"):
        write_files(path, files, b"{}", replace=False)
    assert (path / MANIFEST).read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_files(tmp_path / "new", {"a": b"x", "b": None}, b"{}", replace=False)  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_one_seed_gives_one_synthetic_bundle(bundle_path: Path, tmp_path: Path) -> None:
    again = write_synthetic_bundle(tmp_path / "again", items=400, seed=3)
    assert (again / MANIFEST).read_bytes() == (bundle_path / MANIFEST).read_bytes()
