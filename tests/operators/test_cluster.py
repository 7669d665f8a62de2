"""The standalone cluster consists of real processes, which end with it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from operators.cluster import Cluster, ClusterError
from operators.remote import failure
from operators.standalone import NO_PYTHON
from tests.counting import addresses
from tests.kafka import JVM, PATIENCE_S, ROOT, wait_for

OPTIONS = {
    "heartbeat.interval": "500 ms",  # two that fail tell the loss, however slow it is
    "env.java.opts.jobmanager": JVM,
    "env.java.opts.taskmanager": JVM,
}

# Runs when an interpreter is set up; of one inside a JVM it makes that take a while. It does not
# sleep: no other thread has its turn then.
SLOW_SETUP = """
import pathlib, time
if pathlib.Path("/proc/self/comm").read_text() == "java\\n":
    pathlib.Path(__file__).with_name("begun").touch()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        pass
    pathlib.Path(__file__).with_name("ready").touch()
"""


def test_a_cluster_is_made_of_processes_and_notices_the_loss_of_one() -> None:
    with Cluster(taskmanagers=2, slots=2, options=OPTIONS) as cluster:
        pids = [cluster.jobmanager_pid, *cluster.taskmanagers.values()]
        names = [" ".join(psutil.Process(pid).cmdline()) for pid in pids]
        assert "StandaloneSessionClusterEntrypoint" in names[0]
        assert all("TaskManagerRunner" in name for name in names[1:])
        assert cluster.rest.get("/overview")["slots-total"] == 4
        killed = cluster.kill_taskmanager()
        wait_for(lambda: not psutil.pid_exists(killed), 60, "the end of the process")
        wait_for(
            lambda: cluster.rest.get("/overview")["slots-total"] == 2, 60, "the loss to be noticed"
        )
        (left,) = cluster.taskmanagers.values()
        before = addresses(cluster.rest)
        psutil.Process(left).kill()
        wait_for(
            lambda: len(now := addresses(cluster.rest)) == 1 and now.isdisjoint(before),
            PATIENCE_S,
            "it to be started again",
        )
    assert not any(map(psutil.pid_exists, pids))
    assert not cluster.directory.exists()


def test_a_cluster_that_cannot_start_says_why() -> None:
    impossible = {"heartbeat.interval": "10 s", "heartbeat.timeout": "1 s"}
    with pytest.raises(ClusterError, match="heartbeat"), Cluster(options=impossible):
        pass


def test_a_taskmanager_in_which_no_python_can_run_any_more_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_SETUP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Cluster(options=OPTIONS) as cluster:
        before = addresses(cluster.rest)
        command = [sys.executable, "-m", "tests.operators.adding", cluster.rest.address]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as adding:
            assert adding.stdin is not None
            assert adding.stdout is not None
            print(file=adding.stdin, flush=True)
            job = adding.stdout.readline().strip()
            wait_for((tmp_path / "begun").exists, PATIENCE_S, "Python to be set up", 0.1)
            time.sleep(1)
            cluster.rest.send("PATCH", f"/jobs/{job}?mode=cancel")
            wait_for((tmp_path / "ready").exists, PATIENCE_S, "Python to be ready", 0.1)
            print(file=adding.stdin, flush=True)
            job = adding.stdout.readline().strip()
            adding.stdin.close()

        def runs() -> bool:
            tasks = cluster.rest.get(f"/jobs/{job}")["status-counts"]
            return tasks["RUNNING"] == sum(tasks.values())

        wait_for(runs, PATIENCE_S, "the job to run")
        assert NO_PYTHON in failure(cluster.rest, job)[1]
        assert before.isdisjoint(addresses(cluster.rest))
