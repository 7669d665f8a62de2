"""A cluster that speaks TLS, and lets in only who shows a certificate that it trusts."""

from __future__ import annotations

import json
import re
import ssl
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from jobs.sessions import SessionsSettings
from jobs.settings import load
from operators.broker import Broker
from operators.ports import free_port
from operators.rest import Rest
from tests.certificates import Authority
from tests.jobs.test_cluster import Project
from tests.kafka import job


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


@pytest.mark.timeout(900)
def test_only_who_shows_a_trusted_certificate_submits_and_stops_jobs(
    broker: Broker, project: Project, tmp_path: Path
) -> None:
    trusted, other = (Authority(tmp_path / name) for name in ("trusted", "other"))
    own, stranger = trusted.identity("flink"), other.identity("stranger")
    words = ("start", "--taskmanagers", "1", "--port", str(free_port()), "--json")
    words += ("--ca", str(trusted.ca), "--certificate", str(own))
    note = json.loads(project.well(project.cluster(*words)))
    address = note["rest"][0]
    assert f"answers on https://{address}" in project.well(project.cluster("status"))
    for ca, certificate in ((None, None), (trusted.ca, None), (trusted.ca, stranger)):
        with pytest.raises((OSError, HTTPException)):
            overview(address, ca, certificate)
    assert overview(address, trusted.ca, own)

    settings = [f"kafka.bootstrap={broker.bootstrap}", "kafka.create_topics=true"]
    settings += [f"{kind}_topic=tls-{kind}" for kind in ("events", "sessions", "late_events")]
    submitted = [*job("sessions", *settings, "dead_letters_topic=tls-dead")[4:], "--target"]
    project.well(project.jobs("sessions", *submitted, "cluster"))
    assert project.status()["state"] == "RUNNING"
    in_clear = ("--set", f"engine.jobmanager={address}")
    refused = project.jobs("sessions", *submitted, "cluster", *in_clear).stderr
    assert f"expected a Flink cluster at http://{address}; none answers" in refused
    elsewhere = [f"engine.tls.ca={trusted.ca}", f"engine.tls.certificate={own}"]
    tls = load(SessionsSettings, "sessions", overrides=elsewhere, environ={}).engine.tls
    assert Rest(address, tls).get("/jobs/overview")["jobs"][0]["state"] == "RUNNING"
    project.well(project.jobs("cluster", "stop", "sessions"))
    conf = project.state / "streamrec" / "cluster" / "conf"
    project.well(project.flink("list", "-m", f"https://{address}", conf=conf))
    assert conf.joinpath("config.yaml").stat().st_mode & 0o077 == 0
    (password,) = set(re.findall("password: (.+)", conf.joinpath("config.yaml").read_text()))
    logs = "".join(path.read_text("utf-8", "replace") for path in project.state.rglob("*.log"))
    assert "security.ssl.keystore-password" in logs
    assert password not in logs
