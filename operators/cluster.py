"""A standalone Flink cluster of real processes: one JobManager and TaskManagers beside it.

    with Cluster(taskmanagers=2) as cluster:
        subprocess.run([..., "--set", f"engine.jobmanager={cluster.rest.address}"])

Every process listens on the loopback address only, is started again should it end by itself, and
ends with the one that started it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from operators.ports import HOST, free_port
from operators.rest import Rest
from operators.service import Service
from operators.standalone import ClusterError, launch, prepare, wait_for_slots

__all__ = ["Cluster", "ClusterError"]


class Cluster(Service):
    """One JobManager and `taskmanagers` TaskManagers with `slots` slots each."""

    def __init__(
        self, taskmanagers: int = 1, slots: int = 1, options: Mapping[str, str] | None = None
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="streamrec-cluster-"))
        port = free_port()
        self.rest = Rest(f"{HOST}:{port}")
        self._count, self._slots = taskmanagers, slots
        self._options = {
            "jobmanager.rpc.port": str(free_port()),
            "rest.port": str(port),
            **(options or {}),
        }
        self._tethers: dict[str, subprocess.Popen[str]] = {}
        self.jobmanager_pid = 0
        self.taskmanagers: dict[str, int] = {}  # id in the REST → first process id

    def start(self) -> Cluster:
        """Start all processes and wait until every slot is registered."""
        prepare(self.directory, self._slots, self._options)
        self.jobmanager_pid = self._launch("jobmanager-0")
        for _ in range(self._count):
            self.start_taskmanager()
        slots = self._count * self._slots
        wait_for_slots(self.directory, [self.rest], slots, self._is_alive)
        return self

    def start_taskmanager(self) -> int:
        """Start one more TaskManager; returns its process id without waiting for it."""
        name = f"taskmanager-{len(self._tethers)}"
        self.taskmanagers[name] = self._launch(name, {"taskmanager.resource-id": name})
        return self.taskmanagers[name]

    def kill_taskmanager(self, name: str | None = None) -> int:
        """SIGKILL a TaskManager, the oldest unless it is named, for good, as a lost machine is.

        Returns its process id.
        """
        name = name or next(iter(self.taskmanagers))
        self._tethers[name].kill()  # the kernel then kills the TaskManager
        return self.taskmanagers.pop(name)

    def close(self) -> None:
        """End every process and remove the folder."""
        for process in self._tethers.values():
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for process in self._tethers.values():
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self, name: str, options: Mapping[str, str] | None = None) -> int:
        process = launch(self.directory, name, options)
        self._tethers[name] = process
        assert process.stdout is not None
        return int(process.stdout.readline())

    def _is_alive(self) -> bool:
        return all(process.poll() is None for process in self._tethers.values())
