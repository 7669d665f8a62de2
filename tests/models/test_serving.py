"""Which bundle answers which event, and what is refused while the one before it goes on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import onnx
import pytest

from models.bundle import Bundle, BundleError
from models.bundle_files import MANIFEST, UnreachableError
from models.history import Decision
from models.recommender import Settings
from models.registry import Follower, Registry
from models.serving import Served, Serving
from tests.bundles import decide, forced, resigned, versioned

Publish = Callable[..., Registry]
BASE = "synthetic-400-3"


@pytest.fixture
def publish(bundle_path: Path, tmp_path: Path) -> Publish:
    """Publishes sound bundles of these versions; each acts from 1,000 times its number on."""

    def made(*versions: str) -> Registry:
        registry = Registry(tmp_path / "registry")
        for version in versions:
            registry.publish(versioned(bundle_path, tmp_path, version))
            registry.promote(version, 1000 * int(version[1:]))
        return registry

    return made


@pytest.fixture
def serve(bundle_path: Path, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    made: list[Serving] = []

    def serving(**changes: float) -> Serving:
        registry = str(tmp_path / "registry")
        served = Served(bundle_path, registry, **{"budget_ms": 1000.0, **changes})  # type: ignore[arg-type]
        made.append(Serving(served, Settings()))
        return made[-1]

    yield serving
    for each in made:
        each.close()


def versions(serving: Serving, *times: int) -> list[str]:
    return [serving.at(time).bundle_version for time in times]


def test_without_a_registry_one_bundle_answers_all(bundle_path: Path) -> None:
    serving = Serving(Served(bundle_path), Settings())
    serving.start()
    assert versions(serving, 0, 10**12) == [BASE, BASE]


def test_an_event_is_answered_by_what_acted_at_its_time(
    publish: Publish, serve: Callable[..., Serving]
) -> None:
    publish("v1", "v2").rollback(3000)
    for _ in range(2):  # each worker, and each replay, alike
        times = (999, 1000, 1999, 2000, 2999, 3000, 10**12, 1500)
        expected = [BASE, "v1", "v1", "v2", "v2", "v1", "v1", "v1"]
        assert versions(serve(), *times) == expected


def test_a_new_bundle_answers_from_its_time_on_and_no_event_before(
    publish: Publish, serve: Callable[..., Serving]
) -> None:
    publish("v1")
    serving = serve()
    publish("v2")
    assert versions(serving, 5000) == ["v1"]  # not seen yet
    serving.refresh()
    assert versions(serving, 5000, 1999, 2000) == ["v2", "v1", "v2"]
    publish().rollback(3000)
    serving.refresh()
    assert versions(serving, 5000, 2500, 1500) == ["v1", "v2", "v1"]
    assert serving.counts == {"bundles_loaded": 2, "bundles_refused": 0, "other_bundle": 0}


def test_a_registry_that_is_empty_at_first_is_followed(
    publish: Publish, serve: Callable[..., Serving]
) -> None:
    serving = serve()
    assert versions(serving, 5000) == [BASE]
    publish("v1")
    serving.refresh()
    assert versions(serving, 5000, 999) == ["v1", BASE]


def test_workers_follow_by_themselves_and_stop_when_closed(
    publish: Publish, serve: Callable[..., Serving]
) -> None:
    serving = serve(poll_s=0.01)
    serving.start()
    publish("v1")
    deadline = time.monotonic() + 30
    while serving.at(5000).bundle_version != "v1":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    serving.close()
    while any(thread.name == "bundles" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_while_a_bundle_is_loaded_the_one_before_it_answers(
    publish: Publish, serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("v1")
    serving, begun, go_on, load = serve(), threading.Event(), threading.Event(), Follower.load

    def slow(follower: Follower, decision: Decision) -> Bundle:
        begun.set()
        assert go_on.wait(30)
        return load(follower, decision)

    publish("v2")
    monkeypatch.setattr(Follower, "load", slow)
    loading = threading.Thread(target=serving.refresh)
    loading.start()
    assert begun.wait(30)
    assert versions(serving, 2000, 5000) == ["v1", "v1"]
    go_on.set()
    loading.join()
    assert versions(serving, 2000) == ["v2"]


def nan_weights(path: Path) -> None:
    model = onnx.load(path / "ranker.onnx")
    weights = np.frombuffer(model.graph.initializer[0].raw_data, "<f4").copy()
    weights[0] = np.nan
    model.graph.initializer[0].raw_data = weights.tobytes()
    (path / "ranker.onnx").write_bytes(model.SerializeToString())
    resigned(path)


def external_data(path: Path) -> None:
    model = onnx.load(path / "encoder.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (path / "encoder.onnx").write_bytes(model.SerializeToString())
    resigned(path)


def wrong_dimensions(path: Path) -> None:
    np.save(path / "vectors.npy", np.load(path / "vectors.npy")[:, :32])
    resigned(path)


def other_features(path: Path) -> None:
    schema = json.loads((path / MANIFEST).read_text())["features"]
    resigned(path, features={**schema, "session": schema["session"][::-1]})


def empty_index(path: Path) -> None:
    (path / "index.faiss").write_bytes(faiss.serialize_index(faiss.IndexFlatIP(64)).tobytes())
    resigned(path)


def foreign_index(path: Path) -> None:
    index = faiss.IndexFlatIP(64)
    index.add(np.load(path / "vectors.npy")[::-1].copy())
    (path / "index.faiss").write_bytes(faiss.serialize_index(index).tobytes())
    resigned(path)


def linked_file(path: Path) -> None:
    target = path.with_name("elsewhere")
    (path / "vectors.npy").rename(target)
    (path / "vectors.npy").symlink_to(target)


def flipped_bit(path: Path) -> None:
    data = bytearray((path / "vectors.npy").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "vectors.npy").write_bytes(bytes(data))


def truncated(path: Path) -> None:
    (path / "index.faiss").write_bytes((path / "index.faiss").read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flipped_bit, "vectors.npy does not have the hash"),
        (truncated, "bytes in index.faiss"),
        (linked_file, "expected a plain file vectors.npy"),
        (nan_weights, "expected finite weights"),
        (external_data, "a tensor is external"),
        (wrong_dimensions, "expected 400 vectors of 32 in index.faiss"),
        (other_features, "expected the feature schema"),
        (empty_index, "got 0 of 64"),
        (foreign_index, "expected the stored answer to golden session"),
    ],
)
def test_an_unsound_bundle_is_refused_and_the_one_before_it_goes_on(
    publish: Publish,
    serve: Callable[..., Serving],
    bundle_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    registry = publish("v1")
    serving = serve()
    damage(versioned(bundle_path, tmp_path, "v2"))
    forced(registry, tmp_path / "v2", 2000)
    if damage is linked_file:
        place = tmp_path / "registry" / "bundles" / "v2-forced"
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "v2", place, symlinks=True)
    for _ in range(2):
        serving.refresh()
    assert versions(serving, 5000, 1500) == ["v1", "v1"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert "refused bundle v2 of decision 2" in said
    assert reason in said
    assert serving.counts == {"bundles_loaded": 1, "bundles_refused": 1, "other_bundle": 1}
    assert versions(serve(), 5000) == ["v1"]  # a worker that is started now decides alike
    publish("v3")  # and the next sound one answers
    serving.refresh()
    assert versions(serving, 2500, 3000) == ["v1", "v3"]


def test_another_bundle_under_the_announced_version_is_refused(
    publish: Publish, serve: Callable[..., Serving]
) -> None:
    registry = publish("v1")
    serving = serve()
    publish("v2")
    place = registry.bundles.place(registry.bundles.find("v2")).local
    assert place is not None
    resigned(place, why="something else")
    serving.refresh()
    assert versions(serving, 5000) == ["v1"]
    assert serving.counts["bundles_refused"] == 1


def test_a_bundle_that_is_slower_than_the_budget_is_refused(
    publish: Publish, serve: Callable[..., Serving], caplog: pytest.LogCaptureFixture
) -> None:
    publish("v1")
    serving = serve(budget_ms=1e-6)
    assert versions(serving, 5000) == [BASE]
    assert "expected a list in at most 1e-06 ms; bundle v1 takes" in caplog.text


def test_an_older_version_announced_again_is_refused(
    publish: Publish, serve: Callable[..., Serving], caplog: pytest.LogCaptureFixture
) -> None:
    registry = publish("v1", "v2")
    serving = serve()
    decide(registry, "promoted", "v1", 3000, registry.bundles.find("v1").sha256)
    for _ in range(2):
        serving.refresh()
    assert versions(serving, 5000) == ["v2"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert "v1 was announced at sequence 1 already" in said
    assert serving.counts["bundles_refused"] == 1


def test_a_bundle_that_is_not_in_memory_is_loaded_for_the_event_that_needs_it(
    publish: Publish, serve: Callable[..., Serving]
) -> None:
    publish("v1", "v2", "v3")
    serving = serve(kept=2)
    times = (1000, 2000, 3000, 3000, 1000)
    assert versions(serving, *times) == ["v1", "v2", "v3", "v3", "v1"]
    assert serving.counts == {"bundles_loaded": 5, "bundles_refused": 0, "other_bundle": 0}


def test_what_was_pruned_is_answered_by_what_acted_before_it(
    publish: Publish, serve: Callable[..., Serving]
) -> None:
    assert publish("v1", "v2", "v3").prune(keep=1, now_ms=9000) == ["v1"]
    serving = serve()
    assert versions(serving, 1500, 1500, 2500) == [BASE, BASE, "v2"]
    assert serving.counts == {"bundles_loaded": 2, "bundles_refused": 1, "other_bundle": 2}


@pytest.mark.parametrize(
    ("step", "trouble"),
    [
        ("load", UnreachableError("no answer")),
        ("load", OSError("no answer")),
        ("poll", OSError("no answer")),
    ],
)
def test_what_does_not_answer_just_now_is_told_once_and_tried_again(
    publish: Publish,
    serve: Callable[..., Serving],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    trouble: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise trouble

    publish("v1")
    serving = serve()
    publish("v2")
    with monkeypatch.context() as patched:
        patched.setattr(Follower, step, fail)
        for _ in range(3):
            serving.refresh()
        assert versions(serving, 5000) == ["v1"]
    assert caplog.text.count("no answer") == 1
    serving.refresh()
    assert versions(serving, 5000) == ["v2"]


def test_a_job_does_not_start_without_its_first_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle directory"):
        Serving(Served(tmp_path / "none"), Settings())
