"""The standalone cluster consists of real processes, which end with it."""

from __future__ import annotations

import psutil
import pytest

from operators.cluster import Cluster, ClusterError
from tests.counting import addresses
from tests.kafka import JVM, PATIENCE_S, wait_for

OPTIONS = {
    "heartbeat.interval": "500 ms",  # two that fail tell the loss, however slow it is
    "env.java.opts.jobmanager": JVM,
    "env.java.opts.taskmanager": JVM,
}


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
