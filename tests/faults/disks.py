"""The disk that checkpoints are written to is full for a while."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.run import Run, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import PATIENCE_S, wait_for

MEBIBYTES = 64
INTERVAL_S = 5
TOLERATED = 10  # failed checkpoints in a row, by flink-conf/config.yaml
FAILED = 3  # while the lists must go on without a restart


@scenario()
def checkpoint_disk_full(ground: Ground) -> Figures:
    """The disk of the checkpoints is full: lists go on, checkpoints come again when it is not.

    The first time fewer checkpoints fail than are tolerated, the second time more: then the job
    restarts from the last whole one, and answers while the disk is still full.
    """
    disk = ground.folder / "disk"
    with small_disk(disk) as refused:
        if refused:
            return {"skipped": f"no file system could be mounted: {refused}"}
        with stage(ground) as ours, run(ours, "disk", *_LATENCY, *_to(disk)) as recommend:
            with full(disk):
                checkpoints_fail(recommend, FAILED)
                assert recommend.failures() == 0, "the job restarted; it was to go on"
                recommend.goes_on()
            checkpoints_succeed(recommend)
            ground.say("the disk was full, and lists and then checkpoints went on")
            ours.cluster.start_taskmanager()
            seconds = recommend.survives(recommend.kill_taskmanager)
            with full(disk):
                recommend.survives(lambda: checkpoints_fail(recommend, TOLERATED + 1))
            checkpoints_succeed(recommend)
            ground.say("the disk was full for long: the job restarted, and went on")
            return recommend.verify() | {
                "restarts": recommend.failures(),
                "from_the_next_checkpoint_s": round(seconds, 1),
            }


_LATENCY = ("latency", "at-least-once")


def _to(disk: Path) -> tuple[str, ...]:
    return f"engine.checkpoint_dir={disk.as_uri()}", f"engine.checkpoint_interval_s={INTERVAL_S}"


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """A file system of its own in this folder; what mount says where it may not be."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MEBIBYTES}m", "tmpfs"]
    mounted = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    try:
        yield mounted.stderr.strip() if mounted.returncode else ""
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte more can be written to the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


def checkpoints_fail(recommend: Run, count: int) -> None:
    """Wait until so many more checkpoints have failed; none may succeed after the first of them."""
    before = _count(recommend, "failed")
    wait_for(lambda: _count(recommend, "failed") > before, PATIENCE_S, "a failed checkpoint")
    whole = _count(recommend, "completed")
    what = f"{count} failed checkpoints"
    wait_for(lambda: _count(recommend, "failed") >= before + count, PATIENCE_S, what)
    assert _count(recommend, "completed") == whole, "a checkpoint fit on the full disk"


def checkpoints_succeed(recommend: Run) -> None:
    before = _count(recommend, "completed")
    wait_for(lambda: _count(recommend, "completed") > before, PATIENCE_S, "a checkpoint")


def _count(recommend: Run, kind: str) -> int:
    return int(recommend.checkpoints()["counts"][kind])
