"""How much memory TaskManagers and their Python workers take, looked at while something runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from operators.cluster import Cluster
from operators.configuration import overlay
from tests.faults.stage import python_workers

EVERY_S = 1.0


@dataclass(frozen=True)
class TaskManager:
    """MiB that a TaskManager takes, alone and with its Python workers."""

    alone: float
    together: float


class Memory:
    """The most that one TaskManager took, alone and with its Python workers, in MiB."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.alone = self.together = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def check(self) -> dict[str, int]:
        """The figures; AssertionError where it was more than Flink was told a TaskManager has."""
        size = overlay("config")["taskmanager.memory.process.size"]
        limit = int(size.removesuffix("m"))
        assert self.together <= limit, (
            f"expected a TaskManager and its workers to take at most {limit} MiB; "
            f"they took {self.together:.0f}, {self.alone:.0f} of it the TaskManager"
        )
        return {"taskmanager_mib": round(self.alone), "with_workers_mib": round(self.together)}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopping.wait(EVERY_S):
            for each in taskmanagers(self.cluster):
                self.alone = max(self.alone, each.alone)
                self.together = max(self.together, each.together)


def taskmanagers(cluster: Cluster) -> list[TaskManager]:
    """What each of the cluster's TaskManagers takes now."""
    workers = python_workers(cluster.directory)
    found = []
    for pid in list(cluster.taskmanagers.values()):
        alone = resident(psutil.Process(pid))
        its = [each for each in workers if pid in parents(each)]
        found.append(TaskManager(alone, alone + sum(map(resident, its))))
    return found


@contextmanager
def memory(cluster: Cluster) -> Iterator[Memory]:
    """Look at the memory meanwhile."""
    looking = Memory(cluster)
    looking.start()
    try:
        yield looking
    finally:
        looking.stop()


def resident(process: psutil.Process) -> float:
    """MiB in memory that are the process's own: libraries that others map too count once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss) / (1 << 20)
    return 0.0


def parents(process: psutil.Process) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [each.pid for each in process.parents()]
    return []
