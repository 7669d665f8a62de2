"""The registry: immutable bundles, one winner for each decision, and nothing half after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from models.bundle import Bundle, BundleError
from models.bundle_files import FILES, MANIFEST, UnreachableError, manifest_text
from models.bundle_store import BundleStore, Chosen
from models.history import ConflictError, RegistryError
from models.loading import load_bundle
from models.registry import Follower, Registry
from models.storage import ASIDE, Folder
from tests.bundles import versioned

ROOT = Path(__file__).resolve().parents[2]
HASH = "0" * 64


@pytest.fixture
def publish(bundle_path: Path, tmp_path: Path) -> Callable[..., Registry]:
    """Makes a registry with the bundles of these versions in it."""

    def made(*versions: str) -> Registry:
        registry = Registry(tmp_path / "registry")
        for version in versions:
            registry.publish(versioned(bundle_path, tmp_path, version))
        return registry

    return made


def folders(registry: Registry, name: str) -> set[str]:
    return {info.base_name for info in (registry.root / name).infos()}


def test_a_published_bundle_is_loaded_as_it_was(bundle_path: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path.as_uri() + "/registry")
    published = registry.publish(bundle_path)
    there = registry.bundles.place(published)
    assert {info.base_name for info in there.infos()} == {*FILES, MANIFEST}
    for name in (*FILES, MANIFEST):
        assert there.read(name, 1 << 30) == (bundle_path / name).read_bytes()
    assert published.sha256 == hashlib.sha256((bundle_path / MANIFEST).read_bytes()).hexdigest()
    assert registry.bundles.load(published).version == load_bundle(there.uri).version
    assert registry.bundles.all() == {published.bundle_version: published}
    assert registry.history().decisions == []  # it is there, and does not act


def test_the_same_bundle_again_changes_nothing(bundle_path: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    first = registry.publish(bundle_path)
    before = [(info.path, info.mtime_ns) for info in registry.root.infos(recursive=True)]
    assert Registry(tmp_path / "registry").publish(bundle_path) == first
    after = [(info.path, info.mtime_ns) for info in registry.root.infos(recursive=True)]
    assert after == before


def test_other_bytes_under_the_same_version_are_refused(
    publish: Callable[..., Registry], bundle_path: Path, tmp_path: Path
) -> None:
    registry = publish("v1")
    other = versioned(bundle_path, tmp_path / "other", "v1", seed=99)
    with pytest.raises(RegistryError, match="no other bundle of version v1"):
        registry.publish(other)
    assert len(folders(registry, "bundles")) == 1


@pytest.mark.parametrize("version", ["../outside", "", ".hidden", "a/b", "v1\n", 7, None])
def test_a_version_that_is_no_name_is_refused(
    bundle_path: Path, tmp_path: Path, version: object
) -> None:
    path = versioned(bundle_path, tmp_path, "copy")
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_bytes(manifest_text({**manifest, "bundle_version": version}))
    with pytest.raises(BundleError, match="expected a bundle_version"):
        Registry(tmp_path / "registry").publish(path)
    with pytest.raises(RegistryError, match="expected a bundle of the registry"):
        Registry(tmp_path / "registry").bundles.find(str(version))
    assert not (tmp_path / "registry" / "bundles").exists()


def test_an_unsound_bundle_does_not_come_in(bundle_path: Path, tmp_path: Path) -> None:
    path = versioned(bundle_path, tmp_path, "v1")
    (path / "vectors.npy").write_bytes(b"x")
    registry = Registry(tmp_path / "registry")
    with pytest.raises(BundleError, match=r"expected \d+ bytes in vectors.npy"):
        registry.publish(path)
    assert registry.root.infos() == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda place: (place / "vectors.npy").write_bytes(b"x"), "bytes in vectors.npy"),
        (lambda place: (place / "extra.bin").write_bytes(b"x"), "unknown: extra.bin"),
        (lambda place: (place / "ranker.onnx").unlink(), "missing: ranker.onnx"),
        (lambda place: (place / MANIFEST).write_bytes(b"{}"), "it has another hash"),
        (lambda place: (place / MANIFEST).unlink(), "it is missing"),
        (shutil.rmtree, "expected a bundle directory"),
    ],
)
def test_damage_in_the_registry_is_found_before_a_bundle_acts(
    publish: Callable[..., Registry], damage: Callable[[Path], object], reason: str
) -> None:
    registry = publish("v1")
    published = registry.bundles.find("v1")
    place = registry.bundles.place(published).local
    assert place is not None
    damage(place)
    with pytest.raises(BundleError, match=reason):
        registry.promote("v1", 1000)
    assert registry.history().decisions == []


def test_a_link_in_place_of_a_bundle_or_of_a_file_is_refused(
    publish: Callable[..., Registry], tmp_path: Path
) -> None:
    registry = publish("v1")
    place = registry.bundles.place(registry.bundles.find("v1")).local
    assert place is not None
    (place / "vectors.npy").rename(tmp_path / "vectors.npy")
    (place / "vectors.npy").symlink_to(tmp_path / "vectors.npy")
    with pytest.raises(BundleError, match=r"expected a plain file vectors\.npy"):
        registry.promote("v1", 1000)
    (place / "vectors.npy").unlink()
    (tmp_path / "vectors.npy").rename(place / "vectors.npy")
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="it is a link"):
        registry.promote("v1", 1000)


@pytest.mark.parametrize("folder", ["../../elsewhere", "/etc", "a/../../b", ""])
def test_a_pointer_leads_nowhere_else(publish: Callable[..., Registry], folder: str) -> None:
    registry = publish("v1")
    pointer = registry.root.local / "published" / "v1" / "pointer.json"  # type: ignore[operator]
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "folder": folder}))
    with pytest.raises(RegistryError, match="expected a pointer to v1"):
        registry.promote("v1", 1000)


def test_another_bundle_in_place_of_the_one_decided_about_is_refused(
    publish: Callable[..., Registry],
) -> None:
    registry = publish("v1", "v2")
    decision = registry.promote("v1", 1000)
    one, two = (
        registry.root.local / "published" / version / "pointer.json"  # type: ignore[operator]
        for version in ("v1", "v2")
    )
    one.write_text(two.read_text().replace('"bundle_version":"v2"', '"bundle_version":"v1"'))
    with pytest.raises(BundleError, match="it has another hash"):
        Follower(registry.root).load(decision)
    with pytest.raises(BundleError, match="expected v1"):
        registry.bundles.load(registry.bundles.find("v1"))


def test_a_follower_sees_decisions_once_and_in_order(publish: Callable[..., Registry]) -> None:
    registry = publish("v1", "v2")
    follower = Follower(registry.root)
    assert follower.poll() == []
    assert follower.at(10**12) is None
    decisions = [registry.promote("v1", 1000, "first"), registry.reject("x", HASH, 1500, "worse")]
    assert follower.poll() == decisions
    assert follower.poll() == []
    decisions = [registry.promote("v2", 2000), registry.rollback(3000)]
    assert [each.bundle_version for each in decisions] == ["v2", "v1"]
    assert follower.poll() == decisions
    found = [follower.at(time) for time in (999, 1000, 2000, 2999, 3000)]
    assert [each and each.bundle_version for each in found] == [None, "v1", "v2", "v2", "v1"]
    assert follower.load(decisions[0]).version == "v2"
    assert Follower(registry.root).poll() == registry.history().decisions


def test_polling_reads_one_small_file(publish: Callable[..., Registry]) -> None:
    class Counting(fs.FSSpecHandler):
        calls: list[str] = []

        def open_input_stream(self, path: str) -> object:
            self.calls.append(path)
            return super().open_input_stream(path)

        def get_file_info_selector(self, selector: fs.FileSelector) -> object:
            self.calls.append(selector.base_dir)
            return super().get_file_info_selector(selector)

    fsspec = pytest.importorskip("fsspec")
    registry = publish("v1")
    for number in range(5):
        registry.reject(f"x{number}", HASH, 0, "worse")
    counted = Folder(fs.PyFileSystem(Counting(fsspec.filesystem("file"))), registry.root.path)
    follower = Follower(counted)
    assert len(follower.poll()) == 5
    Counting.calls.clear()
    assert follower.poll() == []
    assert [Path(call).parent.name for call in Counting.calls] == ["00000006"]


def test_sound_decisions_before_a_broken_one_are_followed(publish: Callable[..., Registry]) -> None:
    registry = publish("v1", "v2")
    follower = Follower(registry.root)
    registry.promote("v1", 1000)
    broken = registry.promote("v2", 2000)
    path = registry.root.local / "history" / "00000002" / "decision.json"  # type: ignore[operator]
    path.write_text(path.read_text().replace("2000", "0999"[1:]))
    assert [each.bundle_version for each in follower.poll()] == ["v1"]
    for _ in range(2):
        with pytest.raises(RegistryError, match=r"00000002 .* at or after 1000"):
            follower.poll()
    path.write_bytes(b"{")
    with pytest.raises(RegistryError, match=r"00000002 .* expected a decision"):
        follower.poll()
    assert follower.at(3000) is not None
    assert broken.bundle_version == "v2"


def test_a_gap_in_the_history_is_told(publish: Callable[..., Registry]) -> None:
    registry = publish()
    for number in range(3):
        registry.reject(f"x{number}", HASH, 0, "worse")
    (registry.root / "history" / "00000002").delete()
    with pytest.raises(RegistryError, match="expected history/00000002"):
        Registry(registry.root).history()


def test_who_decides_on_what_is_outdated_is_told_who_was_first(
    publish: Callable[..., Registry],
) -> None:
    registry = publish("v1", "v2")
    seen = len(registry.history().decisions)
    Registry(registry.root).promote("v1", 1000)
    with pytest.raises(ConflictError, match=r"sequence 1 was taken .* v1 promoted") as error:
        registry.promote("v2", 2000, after=seen)
    assert error.value.winner.bundle_version == "v1"
    assert registry.promote("v2", 2000, after=1).sequence == 2


CONTENDER = """
import sys, time
from pathlib import Path
from models.bundle_store import BundleStore, Chosen
from models.history import ConflictError
from models.registry import Registry

root, name, rounds, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
registry = Registry(root)
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
for number in range(rounds):
    after = len(registry.history().decisions)
    try:
        decision = registry.reject(f"{name}-{number}", "0" * 64, 0, "", after=after)
        print("won", decision.sequence, decision.bundle_version)
    except ConflictError as error:
        print("lost", error.winner.sequence, error.winner.bundle_version)
"""


def contend(root: str, names: list[str], rounds: int, start: Path) -> list[tuple[str, int, str]]:
    """What processes that decide at the same time say of it: (won or lost, sequence, version)."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, root, name, str(rounds), str(start)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for each in running:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    start.touch()
    said = "".join(each.communicate(timeout=120)[0] for each in running)
    assert all(each.returncode == 0 for each in running)
    lines = (line.split() for line in said.splitlines())
    return [(word, int(sequence), version) for word, sequence, version in lines]


def one_winner_each(registry: Registry, said: list[tuple[str, int, str]]) -> None:
    decided = {each.sequence: each.bundle_version for each in registry.history().decisions}
    won = [(sequence, version) for word, sequence, version in said if word == "won"]
    lost = [(sequence, version) for word, sequence, version in said if word == "lost"]
    assert sorted(won) == sorted(decided.items())  # every sequence has one winner, and he knows
    assert all(decided[sequence] == version for sequence, version in lost)
    assert lost, "nobody met anybody: this shows nothing"


def test_of_many_processes_exactly_one_wins_each_sequence(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(6)]
    said = contend(str(tmp_path / "registry"), names, 40, tmp_path / "start")
    assert len(said) == 6 * 40
    registry = Registry(tmp_path / "registry")
    one_winner_each(registry, said)
    assert folders(registry, ASIDE) == set()


PUBLISHERS = """
import json, os, signal, sys
from models.history import RegistryError
from models.registry import Registry

TRACED = ("bundle_store.py", "storage.py", "history.py")
lines = 0


def publish(root, path, kill_at):
    def trace(frame, event, argument):
        global lines
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        lines += event == "line"
        if lines == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace if kill_at else None)
    try:
        registry = Registry(root)
        registry.promote(registry.publish(path).bundle_version, 1000)
        sys.settrace(None)
        open(root + ".lines", "w").write(str(lines))
        os._exit(0)
    except RegistryError:
        os._exit(3)
    finally:
        os._exit(1)


print("ready", flush=True)
for command in map(json.loads, sys.stdin):
    if isinstance(command, int):
        print(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1]), flush=True)
    elif (child := os.fork()) == 0:
        publish(*command)
    else:
        print(child, flush=True)
"""


class Publishers:
    """Processes that publish and promote a bundle; forked, for what they import takes long."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", PUBLISHERS]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self._answer() == "ready"

    def start(self, root: Path, path: Path, kill_at: int = 0) -> int:
        """The id of a process that kills itself at the n-th line of storing (0: it does not)."""
        return int(self._asked([str(root), str(path), kill_at]))

    def wait(self, process: int) -> int:
        """Its exit code; 3 if the registry refused, negative if a signal ended it."""
        return int(self._asked(process))

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)

    def _asked(self, command: object) -> str:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()


@pytest.fixture(scope="module")
def publishers() -> Iterator[Publishers]:
    running = Publishers()
    yield running
    running.close()


def is_whole_after_a_kill(root: Path, path: Path, next_path: Path) -> str:
    """Check what a killed publisher left, and that the next one goes on; returns how far it got."""
    registry = Registry(root)
    published, decisions = registry.bundles.all(), tuple(registry.history().decisions)
    for each in published.values():
        assert registry.bundles.load(each).version == each.bundle_version
    assert {each.bundle_version for each in decisions} <= set(published)
    registry.publish(next_path)
    registry.publish(path)
    assert set(registry.bundles.all()) == {path.name, next_path.name}
    assert len(folders(registry, "bundles")) == 2
    assert folders(registry, ASIDE) == set()
    registry.promote(next_path.name, 2000)
    return f"{len(published)} published, {len(decisions)} decided"


def test_a_publisher_killed_at_any_line_leaves_nothing_half(
    bundle_path: Path, tmp_path: Path, publishers: Publishers
) -> None:
    path, next_path = (versioned(bundle_path, tmp_path, name) for name in ("v1", "v2"))
    assert publishers.wait(publishers.start(tmp_path / "whole", path, 1 << 60)) == 0
    lines = int((tmp_path / "whole.lines").read_text())
    reached: Counter[str] = Counter()
    for kill_at in range(1, lines, lines // 15):
        root = tmp_path / f"killed-{kill_at}"
        assert publishers.wait(publishers.start(root, path, kill_at)) == -signal.SIGKILL
        reached[is_whole_after_a_kill(root, path, next_path)] += 1
    assert set(reached) >= {"0 published, 0 decided", "1 published, 0 decided"}


def test_a_publisher_killed_from_outside_leaves_nothing_half(
    bundle_path: Path, tmp_path: Path, publishers: Publishers
) -> None:
    path, next_path = (versioned(bundle_path, tmp_path, name) for name in ("v1", "v2"))
    draw = random.Random(4)
    for number in range(5):
        root = tmp_path / f"killed-{number}"
        process = publishers.start(root, path)
        while not (root / "bundles").exists():  # it has begun to write
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        publishers.wait(process)
        is_whole_after_a_kill(root, path, next_path)


def test_of_two_publishers_of_one_version_one_wins(
    bundle_path: Path, tmp_path: Path, publishers: Publishers
) -> None:
    same = versioned(bundle_path, tmp_path, "v1")
    other = versioned(bundle_path, tmp_path / "other", "v1", seed=99)
    for number, paths in enumerate([(same, same, same), (same, other, same)] * 2):
        root = tmp_path / f"registry-{number}"
        running = [publishers.start(root, path) for path in paths]
        codes = [publishers.wait(process) for process in running]
        assert sorted(codes) == [0, 3, 3]  # one promotes it; or the other bundle is refused
        registry = Registry(root)
        assert len(folders(registry, "bundles")) == 1
        (decision,) = registry.history().decisions
        assert registry.bundles.load(decision).version == "v1"


def test_pruning_keeps_what_serves_the_way_back_and_the_undecided(
    publish: Callable[..., Registry],
) -> None:
    registry = publish("v1", "v2", "v3", "rejected", "candidate")
    for number in (1, 2, 3):
        registry.promote(f"v{number}", number * 1000)
    rejected = registry.bundles.find("rejected")
    registry.reject("rejected", rejected.sha256, 3000, "worse")
    assert registry.prune(keep=5, now_ms=9000) == ["rejected"]
    assert registry.prune(keep=1, now_ms=1500) == []  # v1 acts, v2 and v3 will
    assert registry.prune(keep=1, now_ms=9000) == ["candidate", "v1"]
    assert registry.prune(keep=1, now_ms=9000) == []
    assert set(registry.bundles.all()) == {"v2", "v3"}
    assert len(folders(registry, "bundles")) == 2
    assert len(registry.history().decisions) == 4
    old = registry.bundle_at(1500)
    assert old is not None
    with pytest.raises(RegistryError, match="there is no v1"):
        registry.bundles.load(old)
    with pytest.raises(RegistryError, match="there is no v1"):
        registry.rollback(4000, to="v1")
    assert registry.rollback(4000).bundle_version == "v2"


def test_a_candidate_published_since_is_not_pruned(publish: Callable[..., Registry]) -> None:
    registry = publish("v1", "v2")
    for number in (1, 2):
        registry.promote(f"v{number}", number * 1000)
    publish("v3")
    assert registry.prune(keep=1, now_ms=9000) == []
    registry.promote("v3", 3000)


def test_nothing_is_pruned_while_others_write(publish: Callable[..., Registry]) -> None:
    registry = publish("v1")
    with (
        Registry(registry.root).root.lock(exclusive=False),
        pytest.raises(RegistryError, match="no other publisher at work"),
    ):
        registry.prune(keep=1, now_ms=0)
    with pytest.raises(RegistryError, match="at least 1"):
        registry.prune(keep=0, now_ms=0)


def test_a_bundle_is_not_pruned_while_it_is_decided_about(
    publish: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, load = publish("v1"), BundleStore.load
    tried = []

    def load_while_another_prunes(store: BundleStore, chosen: Chosen) -> Bundle:
        with pytest.raises(RegistryError, match="no other publisher at work"):
            Registry(registry.root).prune(keep=1, now_ms=0)
        tried.append(chosen)
        return load(store, chosen)

    monkeypatch.setattr(BundleStore, "load", load_while_another_prunes)
    registry.promote("v1", 1000)
    assert len(tried) == 1


def test_what_others_are_still_writing_is_not_removed(
    publish: Callable[..., Registry], bundle_path: Path, tmp_path: Path
) -> None:
    registry = publish("v1")
    (registry.root / "bundles" / "v2-0123abcd").write("vectors.npy", b"half")
    with registry.root.lock(exclusive=False):
        registry.publish(versioned(bundle_path, tmp_path, "v3"))
        assert "v2-0123abcd" in folders(registry, "bundles")
    registry.publish(tmp_path / "v3")
    assert "v2-0123abcd" not in folders(registry, "bundles")


def in_memory(path: Path, name: str) -> Folder:
    """The files of a folder on a file system that is not local."""
    fsspec = pytest.importorskip("fsspec")
    folder = Folder(fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory"))), f"/{name}")
    for file in path.rglob("*"):
        if file.is_file():
            at = folder / str(file.parent.relative_to(path)) if file.parent != path else folder
            at.write(file.name, file.read_bytes())
    return folder


def test_a_bundle_is_verified_alike_on_any_file_system(bundle_path: Path) -> None:
    folder = in_memory(bundle_path, "sound")
    assert load_bundle(folder).version == load_bundle(bundle_path).version
    folder.write("extra.bin", b"x")
    with pytest.raises(BundleError, match=r"unknown: extra\.bin"):
        load_bundle(folder)
    damaged = in_memory(bundle_path, "damaged")
    damaged.write("vectors.npy", b"x")
    with pytest.raises(BundleError, match=r"bytes in vectors\.npy; got 1"):
        load_bundle(damaged)
    with pytest.raises(BundleError, match="expected a bundle directory"):
        load_bundle(folder / "none")


def test_a_registry_can_be_followed_where_it_cannot_be_written(
    publish: Callable[..., Registry],
) -> None:
    registry = publish("v1")
    registry.promote("v1", 1000)
    assert registry.root.local is not None
    follower = Follower(in_memory(registry.root.local, "followed"))
    (decision,) = follower.poll()
    assert follower.load(decision).version == "v1"
    with pytest.raises(OSError, match="it can be read, not written"):
        Registry(in_memory(registry.root.local, "copied")).reject("x", HASH, 2000, "worse")


def test_a_file_system_that_does_not_answer_is_not_a_bad_bundle(bundle_path: Path) -> None:
    class Broken(fs.FSSpecHandler):
        def open_input_stream(self, path: str) -> object:
            raise OSError("connection reset")

    fsspec = pytest.importorskip("fsspec")
    files = fs.PyFileSystem(Broken(fsspec.filesystem("file")))
    with pytest.raises(UnreachableError, match="connection reset"):
        load_bundle(Folder(files, str(bundle_path)))
