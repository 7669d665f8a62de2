"""A job on a cluster of processes: its JobManager is killed, it is rescaled, stopped, resumed.

The cluster speaks TLS and lets in only who shows a certificate that it trusts; those of the fault
scenarios speak in clear.
"""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.sessions import SessionsSettings
from jobs.settings import load
from operators.broker import Broker
from operators.java import java_home
from operators.ports import free_port
from operators.release import archived, released
from operators.remote import cancel, running, wait_until_up
from operators.rest import Rest
from operators.standalone import flink_home, rests
from tests.certificates import Authority
from tests.kafka import PATIENCE_S, ROOT, Reader, completed, job, last_words, send, wait_for
from tests.shopping import decision, expected, shopping, starter

PARTS = (0, 60, 120, 180)  # of the events: what comes before and after each of the changes


class Project:
    """The commands of the project, with their state in a folder of their own."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def cluster(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = str(ROOT / "scripts" / "clusterctl.py")
        return completed(self.state, [sys.executable, program, *words], PATIENCE_S)

    def jobs(self, *words: str) -> subprocess.CompletedProcess[str]:
        return completed(self.state, [sys.executable, "-m", "jobs", *words], 2 * PATIENCE_S)

    @property
    def conf(self) -> Path:
        """The configuration of its cluster."""
        return self.state / "streamrec" / "cluster" / "conf"

    def flink_run(self, rest: Rest, *words: str) -> subprocess.CompletedProcess[str]:
        variables = {"FLINK_CONF_DIR": self.conf, "JAVA_HOME": java_home()}
        variables |= {"FLINK_LOG_DIR": self.state, "JVM_ARGS": f"-Djava.io.tmpdir={self.state}"}
        command = ["env", *(f"{name}={value}" for name, value in variables.items())]
        command += [str(flink_home() / "bin" / "flink"), "run", "-d", "-m", str(rest)]
        command += ["-pyexec", sys.executable, "-pyclientexec", sys.executable, "-pym", *words]
        return completed(self.state, command, 2 * PATIENCE_S)

    def status(self) -> dict[str, Any]:
        (row,) = json.loads(self.well(self.jobs("cluster", "status", "--json")))
        return row

    def well(self, done: subprocess.CompletedProcess[str]) -> str:
        assert done.returncode == 0, done.stderr[-4000:] + last_words(self.state)
        return done.stdout


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended may wait for its parent to notice."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@contextmanager
def unnoticed(note: Path) -> Iterator[None]:
    """A command changes a file, and was ended just before: the file is as it was."""
    before = note.read_bytes()
    yield
    assert note.read_bytes() != before
    note.write_bytes(before)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.cluster("stop")


def overview(address: str, ca: Path | None, certificate: Path | None = None) -> object:
    """What the REST tells who comes with TLS, or without where no authority is given."""
    context = None
    if ca:
        context = ssl.create_default_context(cafile=ca)
        if certificate:
            context.load_cert_chain(certificate)
    url = f"http{'s' if ca else ''}://{address}/overview"
    with urllib.request.urlopen(url, timeout=10, context=context) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_on_a_cluster_keeps_its_state_through_all_that_happens_to_it(
    broker: Broker, project: Project, tmp_path: Path
) -> None:
    trusted, other = (Authority(tmp_path / name) for name in ("trusted", "other"))
    own, stranger = trusted.identity("flink"), other.identity("stranger")
    topics = {kind: f"cluster-{kind}" for kind in ("events", "recommendations", "dead_letters")}
    broker.create_topics(dict.fromkeys(topics.values(), 2))
    records = shopping(5, 10, PARTS[-1], starter().catalogue.item_ids[:200])[: PARTS[-1]]
    decisions = expected(starter(), records, int(time.time() * 1000))
    words = ("start", "--ha", "--port", str(free_port()), "--json")
    words += ("--ca", str(trusted.ca), "--certificate", str(own))
    told = json.loads(project.well(project.cluster(*words)))
    processes, rest = told["processes"], rests(told)[0]
    assert f"answers on https://{rest.address}" in project.well(project.cluster("status"))
    for ca, certificate in ((None, None), (trusted.ca, None), (trusted.ca, stranger)):
        with pytest.raises((OSError, HTTPException)):
            overview(rest.address, ca, certificate)
    assert overview(rest.address, trusted.ca, own)
    elsewhere = [f"engine.tls.ca={trusted.ca}", f"engine.tls.certificate={own}"]
    tls = load(SessionsSettings, "sessions", overrides=elsewhere, environ={}).engine.tls
    assert Rest(rest.address, tls).get("/overview")["slots-total"] == 2
    settings = (
        f"kafka.bootstrap={broker.bootstrap}",
        "engine.checkpoint_interval_s=1",
        "engine.send_code=true",
        *(f"{kind}_topic={topic}" for kind, topic in topics.items()),
    )
    submitted = job(
        "recommend",
        *settings,
    )[1:] + ["--target", "cluster"]
    project.well(completed(project.state, [sys.executable, *submitted], 2 * PATIENCE_S))
    with closing(Reader(broker.bootstrap, topics["recommendations"])) as reader:

        def lists() -> list[dict]:
            return [decision(record.value or b"") for record in reader.read()]

        def answers(part: int) -> None:
            """The part is sent, and every event so far has its list."""
            send(broker.bootstrap, topics["events"], records[PARTS[part] : PARTS[part + 1]])
            sent = [json.loads(record.value or b"") for record in records[: PARTS[part + 1]]]
            ids = {event["event_id"] for event in sent}
            due = {name for name, d in decisions.items() if d["trigger_event_id"] in ids}
            wait_for(
                lambda: {d["recommendation_id"] for d in lists()} >= due, PATIENCE_S, "every list"
            )

        answers(0)
        its_own = ("kafka.create_topics=true", "events_topic=cluster-events")
        project.well(project.flink_run(rest, *job("sessions", settings[0], *its_own)[2:]))
        sessions = running(rest, "streamrec sessions")
        assert sessions is not None
        wait_until_up(rest, sessions)
        cancel(rest, sessions)
        refused = completed(project.state, [sys.executable, *submitted], PATIENCE_S)
        assert "runs already" in refused.stderr
        submitted += ["--set", f"engine.jobmanager={rest.address}"]
        refused = completed(project.state, [sys.executable, *submitted], 2 * PATIENCE_S)
        in_clear = f"expected a Flink cluster at http://{rest.address}; none answers"
        assert in_clear in refused.stderr
        os.kill(processes["jobmanager-0"], signal.SIGKILL)  # the first, and so the leader
        assert project.cluster("status").returncode == 1
        project.well(project.jobs("cluster", "rescale", "recommend", "2"))  # the standby has it
        assert project.status()["slots"] == 2
        answers(1)
        assert "there are 2" in project.jobs("cluster", "rescale", "recommend", "3").stderr
        with unnoticed(project.state / "streamrec" / "submitted" / "recommend.json"):
            project.well(project.jobs("cluster", "stop", "recommend", "--savepoint"))
        assert project.status()["state"] == "FINISHED"
        project.well(project.jobs("cluster", "resume", "recommend"))
        answers(2)
        project.well(project.jobs("cluster", "stop", "recommend"))  # it has a checkpoint
        found = lists()
    assert {d["recommendation_id"]: d for d in found} == decisions
    assert max(Counter(d["recommendation_id"] for d in found).values()) <= 2
    project.well(project.cluster("stop"))
    assert not any(map(is_alive, processes.values()))
    assert project.cluster("status").returncode == 3
    assert (project.conf / "config.yaml").stat().st_mode & 0o077 == 0
    (password,) = set(re.findall("password: (.+)", (project.conf / "config.yaml").read_text()))
    logs = "".join(path.read_text("utf-8", "replace") for path in project.state.rglob("*.log"))
    assert "security.ssl.keystore-password" in logs
    assert password not in logs
    code = archived(project.state / "streamrec" / "code").stem
    assert re.search(rf"PYTHONPATH of python worker: \S*/python-files/\S*/{code}\b", logs)


def test_a_job_that_nobody_submitted_is_not_stopped_or_resumed(project: Project) -> None:
    for verb in ("stop", "resume"):
        done = project.jobs("cluster", verb, "recommend")
        assert done.returncode == 1
        assert "recommend was not submitted from here; known: none" in done.stderr


def test_without_a_cluster_a_job_says_how_to_start_one(project: Project) -> None:
    done = project.jobs("recommend", "--target", "cluster")
    assert done.returncode == 1
    assert "Start one with ./scripts/cluster start" in done.stderr


def test_the_code_of_a_job_is_a_copy_that_a_later_edit_does_not_change(tmp_path: Path) -> None:
    module = tmp_path / "checkout" / "models" / "rule.py"
    module.parent.mkdir(parents=True)
    module.write_text("GAP = 1")
    before = released(tmp_path / "code", tmp_path / "checkout")
    assert released(tmp_path / "code", tmp_path / "checkout") == before
    module.write_text("GAP = 2")
    after = released(tmp_path / "code", tmp_path / "checkout")
    told = [(folder / "models" / "rule.py").read_text() for folder in (before, after)]
    assert told == ["GAP = 1", "GAP = 2"]


def test_the_code_of_a_job_can_be_sent_as_an_archive_with_the_times_of_its_files(
    tmp_path: Path,
) -> None:
    module = tmp_path / "checkout" / "models" / "rule.py"
    module.parent.mkdir(parents=True)
    module.write_text("GAP = 1")
    archive = archived(tmp_path / "code", tmp_path / "checkout")
    assert archived(tmp_path / "code", tmp_path / "checkout") == archive
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "worker", filter="data")
    found = tmp_path / "worker" / "models" / "rule.py"
    assert found.read_text() == "GAP = 1"
    assert found.stat().st_mtime == module.stat().st_mtime  # by which numba knows its sources
