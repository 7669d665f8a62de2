"""The manifests are what Flink's Kubernetes operator takes, and say what the jobs understand."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from jobs.__main__ import JOBS
from jobs.settings import load
from operators.configuration import CONF, flattened
from operators.jars import operator_jar
from operators.ports import HOST
from operators.standalone import NO_PYTHON

FOLDER = CONF / "kubernetes"
NAMES = ("feedback", "recommend", "sessions")
SCHEMA = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"
OF_THIS_MACHINE = ("bind-host", "address", "bind-address", "host", "numberOfTaskSlots", "size")
"""Options of flink-conf/config.yaml that the operator sets, or that a pod has its own of."""


def manifest(name: str) -> Any:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))


@cache
def validator() -> Draft202012Validator:
    """By the operator's own definition, closed to fields that it does not know."""
    with zipfile.ZipFile(operator_jar()) as jar:
        (version,) = yaml.safe_load(jar.read(SCHEMA))["spec"]["versions"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    of_kubernetes = {name: {} for name in ("apiVersion", "kind", "metadata")}
    schema["properties"] |= of_kubernetes
    release = schema["properties"]["spec"]["properties"]["flinkVersion"]
    assert "v1_20" in release.pop("enum")  # that operator is older than Flink 2.3
    release["pattern"] = r"^v\d+_\d+$"
    return Draft202012Validator(schema)


def closed(schema: Any) -> Any:
    """The schema of Kubernetes as one of JSON: known fields only, ports by number or name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: closed(value) for key, value in schema.items()}
    if kept.pop("x-kubernetes-int-or-string", False) is True:
        return {"type": ["integer", "string"]}
    if isinstance(kept.get("properties"), dict) and kept.get("type") == "object":
        kept.setdefault("additionalProperties", False)
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_the_operator_takes_the_manifest(name: str) -> None:
    assert [error.message for error in validator().iter_errors(manifest(name))] == []


@pytest.mark.parametrize(
    ("place", "wrong", "said"),
    [
        ("spec.taskManager.replica", 1, "'replica' was unexpected"),
        ("spec.mode", "local", "'local' is not one of"),
        ("spec.job.parallelism", "1", "'1' is not of type 'integer'"),
        ("spec.flinkVersion", "2.3", "'2.3' does not match"),
        ("spec.podTemplate.spec.securityContext.runAsNotRoot", True, "was unexpected"),
    ],
)
def test_a_mistake_in_a_manifest_is_found(place: str, wrong: Any, said: str) -> None:
    found = manifest("recommend")
    *path, last = place.split(".")
    part = found
    for step in path:
        part = part[step]
    part[last] = wrong
    (error,) = validator().iter_errors(found)
    assert said in error.message


@pytest.mark.parametrize("name", NAMES)
def test_the_job_understands_its_arguments(name: str, tmp_path: Path) -> None:
    spec = manifest(name)["spec"]
    words = spec["job"]["args"]
    assert words[2:5] == ["-pym", "jobs", name]
    for file in ("ca.pem", "password"):
        (tmp_path / file).write_text("x")
    here = [word.replace("/run/secrets/kafka", str(tmp_path)) for word in words[5:]]
    overrides = [word.removeprefix("--set=") for word in here]
    module = importlib.import_module(f"jobs.{name}")
    settings = load(getattr(module, JOBS[name][0]), name, overrides=overrides, environ={})
    slots = int(spec["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert settings.engine.parallelism == spec["job"]["parallelism"]
    assert settings.engine.parallelism <= slots * spec["taskManager"]["replicas"]
    checkpoints = spec["flinkConfiguration"]["execution.checkpointing.dir"]
    assert settings.engine.checkpoint_dir == checkpoints
    assert settings.kafka.security.username == f"streamrec-{name}"


@pytest.mark.parametrize("name", NAMES)
def test_flink_is_set_as_everywhere(name: str) -> None:
    told = manifest(name)["spec"]["flinkConfiguration"]
    here = flattened(yaml.safe_load((CONF / "config.yaml").read_text("utf-8")))
    ours = {
        key: value for key, value in here.items() if key.rpartition(".")[2] not in OF_THIS_MACHINE
    }
    assert {key: told.get(key) for key in ours} == ours


def test_the_manifests_differ_in_their_job_and_its_memory_alone() -> None:
    texts = {name: json.dumps(manifest(name)).replace(name, "JOB") for name in NAMES}
    assert texts["sessions"] == texts["feedback"]
    memory = re.compile(r'"(taskmanager\.memory\.[\w.-]+|memory)": "[^"]+"(, )?')
    assert len({memory.sub("", text) for text in texts.values()}) == 1


def test_a_taskmanager_is_alive_while_it_listens_and_can_run_python(tmp_path: Path) -> None:
    (container,) = manifest("recommend")["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    *shell, script = container["livenessProbe"]["exec"]["command"]

    def is_alive() -> bool:
        here = script.replace("6122", str(port)).replace("/opt/flink/log", str(tmp_path))
        done = subprocess.run([*shell, here], env={**os.environ, "HOSTNAME": HOST}, check=False)
        return done.returncode == 0

    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert is_alive()
        log = tmp_path / "flink-taskexecutor.log"
        log.write_text("java.lang.Error: java.lang.InterruptedException\n\tat elsewhere\n")
        assert is_alive()
        log.write_text(f"… switched to FAILED with failure cause:\n{NO_PYTHON}(P.java:406)\n")
        assert not is_alive()
        log.unlink()
        assert is_alive()
    assert not is_alive()


def test_the_pods_may_do_little() -> None:
    account, role, binding = yaml.safe_load_all((FOLDER / "access.yaml").read_text("utf-8"))
    (rule,) = role["rules"]
    assert rule["resources"] == ["configmaps"]
    assert "*" not in rule["verbs"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]
    for name in NAMES:
        spec = manifest(name)["spec"]
        pod = spec["podTemplate"]["spec"]
        assert spec["serviceAccount"] == account["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "env" not in container  # a worker's log may tell it; secrets come as files


def test_the_image_has_the_flink_of_this_project() -> None:
    release = re.search(r"apache-flink==([\d.]+)", (CONF.parent / "setup.py").read_text())
    assert release is not None
    recipe = (FOLDER / "Dockerfile").read_text()
    assert f"FROM flink:{release[1]}-java17" in recipe
    assert f"flink-python-{release[1]}.jar" in recipe
    for name in NAMES:
        assert manifest(name)["spec"]["job"]["jarURI"].endswith(f"flink-python-{release[1]}.jar")
