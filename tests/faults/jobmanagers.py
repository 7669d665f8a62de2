"""JobManagers of which one leads and is killed: the cluster of `./scripts/cluster start --ha`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.client import HTTPException
from pathlib import Path

import psutil

from operators.cluster import Cluster
from operators.ports import free_port
from operators.rest import Rest
from operators.service import Service
from operators.standalone import answering, rests
from tests.faults.run import RUNS, Run, moments, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import PATIENCE_S, ROOT, completed, wait_for

KILLS = {"throughput": 2, "latency": 1}
_LEADS = "DefaultDispatcherRunner was granted leadership"


class Elected(Service):
    """ZooKeeper, two JobManagers and two TaskManagers, as an operator starts and stops them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.directory = folder / "streamrec" / "cluster"
        self.processes: dict[str, int] = {}
        self.places: list[Rest] = []

    @property
    def rest(self) -> Rest:
        """The REST that answers: of the leader or of the other JobManager."""
        return answering(self.places) or self.places[0]

    def start(self) -> Elected:
        """Start what is not running."""
        told = json.loads(self._cluster("start", "--ha", "--port", str(self.port), "--json"))
        self.processes, self.places = told["processes"], rests(told)
        return self

    def close(self) -> None:
        self._cluster("stop")

    def kill_leader(self) -> str:
        """SIGKILL the JobManager that leads; returns its name."""
        elections = {
            max(_lines(self.directory / name, _LEADS), default=""): name
            for name in self.processes
            if name.startswith("jobmanager")
        }
        leader = elections[max(elections)]  # a line begins with its time
        os.kill(self.processes[leader], signal.SIGKILL)
        return leader

    def end_taskmanager(self) -> None:
        """SIGTERM to a TaskManager, and wait until it has ended."""
        process = psutil.Process(self.processes["taskmanager-0"])
        process.terminate()
        wait_for(lambda: not _runs(process), 60, "the TaskManager's end", 0.1)

    def _cluster(self, *words: str) -> str:
        program = str(ROOT / "scripts" / "clusterctl.py")
        done = completed(self.folder, [sys.executable, program, *words], PATIENCE_S)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout


@scenario()
def jobmanager_kill(ground: Ground) -> Figures:
    """The leading JobManager is killed: the other one leads, and the job goes on by itself."""
    figures: Figures = {}
    cluster = Elected(ground.folder)
    with stage(ground, cluster=cluster) as ours:
        for profile, delivery in RUNS:
            with run(ours, f"lead-{profile}", profile, delivery) as recommend:
                back = []
                for moment in moments(3, KILLS[profile]):
                    cluster.start()  # the one that was killed stands by
                    time.sleep(moment)
                    back.append(_changes_the_leader(recommend, cluster))
                told = recommend.verify() | {"slowest_s": round(max(back), 1)}
                figures[profile] = told
    return figures


def _changes_the_leader(recommend: Run, cluster: Elected) -> float:
    """Kill the leader during a checkpoint; seconds until the next one has brought the job back."""
    job, began = recommend.job_id, time.time()
    recommend.take_checkpoint()
    killed = cluster.kill_leader()
    what = "a new leader that goes on with the job"
    wait_for(lambda: restored_since(cluster, job, began), PATIENCE_S, what)
    recommend.goes_on()
    seconds = time.time() - began
    recommend.stage.ground.say(f"killed {killed}, which led; lists again after {seconds:.1f} s")
    return seconds


def restored_since(cluster: Cluster | Elected, job: str, began: float) -> bool:
    """Whether the job went on from a checkpoint after `began`, in epoch seconds."""
    try:
        told = cluster.rest.get(f"/jobs/{job}/checkpoints")["latest"]["restored"]
    except (OSError, HTTPException):  # nobody is elected yet
        return False
    return bool(told) and told["restore_timestamp"] > began * 1000


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _lines(folder: Path, mark: str) -> list[str]:
    """Lines with the mark in the logs of a folder."""
    texts = (path.read_text("utf-8", "replace") for path in folder.glob("*.log*"))
    return [line for text in texts for line in text.splitlines() if mark in line]
