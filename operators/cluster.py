"""A standalone Flink cluster of real processes: one JobManager and TaskManagers beside it.

    with Cluster(taskmanagers=2) as cluster:
        subprocess.run([..., "--set", f"engine.jobmanager={cluster.rest}"])

Every process listens on the loopback address only and ends with the one that started it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from operators import tether
from operators.configuration import CONF, flattened
from operators.java import java_home
from operators.ports import HOST, free_port
from operators.service import Service

START_SECONDS = 60
_CAUSE = re.compile(r"^Caused by: | (?:ERROR|FATAL) ")


class ClusterError(RuntimeError):
    """The cluster did not come up; says which process and shows the end of its log."""


class Cluster(Service):
    """One JobManager and `taskmanagers` TaskManagers with `slots` slots each."""

    def __init__(
        self, taskmanagers: int = 1, slots: int = 1, options: Mapping[str, str] | None = None
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="streamrec-cluster-"))
        self.rest = f"{HOST}:{free_port()}"
        self._count, self._slots = taskmanagers, slots
        self._options = dict(options or {})
        self._rpc = free_port()
        self._tethers: list[subprocess.Popen[str]] = []
        self.jobmanager_pid = 0
        self.taskmanager_pids: list[int] = []

    def start(self) -> Cluster:
        """Start all processes and wait until every slot is registered."""
        self.jobmanager_pid = self._launch("jobmanager")
        for _ in range(self._count):
            self.start_taskmanager()
        self._wait(self._count * self._slots)
        return self

    def start_taskmanager(self) -> int:
        """Start one more TaskManager; returns its process id without waiting for it."""
        pid = self._launch("taskmanager")
        self.taskmanager_pids.append(pid)
        return pid

    def kill_taskmanager(self) -> int:
        """SIGKILL the oldest TaskManager, as a failing machine would."""
        pid = self.taskmanager_pids.pop(0)
        os.kill(pid, signal.SIGKILL)
        return pid

    def get(self, path: str) -> Any:
        """What the REST answers at `path`, for instance "/overview"."""
        with urllib.request.urlopen(f"http://{self.rest}{path}", timeout=5) as response:
            return json.load(response)

    def close(self) -> None:
        """End every process and remove the folder."""
        for process in self._tethers:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        for process in self._tethers:
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self, role: str) -> int:
        home = _flink_home()
        number = len(self._tethers)
        environment = os.environ | {
            "JAVA_HOME": str(java_home()),
            "FLINK_CONF_DIR": str(self._write_configuration()),
            "FLINK_LIB_DIR": str(self._link_libraries()),
            "FLINK_LOG_DIR": str(self.directory / f"{role}-{number}"),
            "FLINK_PID_DIR": str(self.directory),
        }
        (self.directory / f"{role}-{number}").mkdir()
        command = ["bash", str(home / "bin" / f"{role}.sh"), "start-foreground"]
        with (self.directory / f"{role}-{number}.out").open("wb") as output:
            process = subprocess.Popen(
                tether.command(command, remove=str(self.directory)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                text=True,
                start_new_session=True,
            )
        self._tethers.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def _write_configuration(self) -> Path:
        folder = self.directory / "conf"
        shutil.copytree(CONF, folder, dirs_exist_ok=True)
        settings = yaml.safe_load((CONF / "config.yaml").read_text("utf-8"))
        options = flattened(settings) | {
            "jobmanager.rpc.address": HOST,
            "jobmanager.rpc.port": str(self._rpc),
            "rest.address": HOST,
            "rest.bind-address": HOST,
            "rest.port": self.rest.rpartition(":")[2],
            "taskmanager.numberOfTaskSlots": str(self._slots),
            "io.tmp.dirs": str(self.directory),
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(options | self._options), "utf-8")
        return folder

    def _link_libraries(self) -> Path:
        """Flink's jars and the one that runs Python, which the wheel keeps among the optional.

        Among a job's own jars it would be loaded anew for each job, and PEMJA's native library
        allows that only once a process.
        """
        folder = self.directory / "lib"
        folder.mkdir(exist_ok=True)
        home = _flink_home()
        for jar in [*home.glob("lib/*.jar"), *home.glob("opt/flink-python-*.jar")]:
            if not (folder / jar.name).exists():
                (folder / jar.name).symlink_to(jar)
        return folder

    def _wait(self, slots: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and all(p.poll() is None for p in self._tethers):
            try:
                if self.get("/overview")["slots-total"] >= slots:
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise ClusterError(
            f"expected {slots} slots within {START_SECONDS} s and no process to end;"
            " what the logs say:\n" + "\n".join(_telling(path) for path in self._logs())
        )

    def _logs(self) -> list[Path]:
        return sorted([*self.directory.glob("*.out"), *self.directory.glob("*/*.log")])


def _telling(log: Path) -> str:
    """A log's name, its lines that name a cause, and how it ends.

    A process that fails writes its stack trace first and then much about how it stops.
    """
    lines = log.read_text("utf-8", "replace").splitlines()
    causes = [line for line in lines if _CAUSE.search(line)]
    return "\n".join([f"{log.parent.name}/{log.name}:", *causes[-5:], *lines[-5:]])


def _flink_home() -> Path:
    spec = find_spec("pyflink")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
