"""A job as the manifests start it: Flink runs the job's own process beside its JobManager."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import yaml

from models.event_range import messages
from operators.broker import Broker
from operators.configuration import CONF, flattened
from operators.java import java_home
from operators.ports import HOST, free_port
from tests.kafka import PATIENCE_S, Record, send, wait_for
from tests.shopping import START_MS


def configured(folder: Path) -> tuple[dict[str, str], str]:
    """The environment of Flink's scripts, with settings of their own, and its REST."""
    spec = find_spec("pyflink")
    assert spec is not None
    home = Path(str(spec.origin)).parent
    shutil.copytree(CONF, folder / "conf")
    (folder / "lib").mkdir()
    for jar in [*home.glob("lib/*.jar"), *home.glob("opt/flink-python-*.jar")]:
        (folder / "lib" / jar.name).symlink_to(jar)
    rest = free_port()
    options = flattened(yaml.safe_load((CONF / "config.yaml").read_text("utf-8")))
    options |= {"rest.port": str(rest), "jobmanager.rpc.port": str(free_port())}
    options |= {"rest.address": HOST, "jobmanager.rpc.address": HOST, "io.tmp.dirs": str(folder)}
    (folder / "conf" / "config.yaml").write_text(yaml.safe_dump(options), "utf-8")
    kept = {key: text for key, text in os.environ.items() if not key.startswith("STREAMREC_")}
    folders = {"CONF": folder / "conf", "LIB": folder / "lib", "BIN": home / "bin"}
    folders |= {"LOG": folder, "PID": folder}
    places = {f"FLINK_{name}_DIR": str(place) for name, place in folders.items()}
    python = os.pathsep.join([str(CONF.parent), kept.get("PYTHONPATH", "")])
    java = {"JAVA_HOME": str(java_home()), "JVM_ARGS": f"-Djava.io.tmpdir={folder}"}
    own = {"PYTHONPATH": python, "XDG_STATE_HOME": str(folder), "TMPDIR": str(folder)}
    return kept | places | java | own, f"http://{HOST}:{rest}"


@contextmanager
def flink(environment: dict[str, str], script: str, *words: str) -> Iterator[subprocess.Popen]:
    """One process of Flink, until the block ends."""
    command = ["bash", str(Path(environment["FLINK_BIN_DIR"]) / script), "start-foreground", *words]
    with (Path(environment["FLINK_LOG_DIR"]) / f"{script}.out").open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_flink_runs_a_job_as_its_application(broker: Broker, tmp_path: Path) -> None:
    broker.create_topics({"a-events": 1, "a-lists": 1, "a-dead": 1})
    spec = yaml.safe_load((CONF / "kubernetes" / "recommend.yaml").read_text("utf-8"))["spec"]
    words = spec["job"]["args"][:5]
    words[1] = sys.executable
    settings = [f"kafka.bootstrap={broker.bootstrap}", f"engine.checkpoint_dir={tmp_path.as_uri()}"]
    settings += ["events_topic=a-events", "recommendations_topic=a-lists"]
    words += [f"--set={each}" for each in [*settings, "dead_letters_topic=a-dead"]]
    event = {"event_id": "a", "event_type": "view_item", "user_id": "u", "item_id": "85123A"}
    event["event_time"] = START_MS
    send(broker.bootstrap, "a-events", [Record(json.dumps(event).encode(), b"u")])
    environment, rest = configured(tmp_path)
    main = ["--job-classname", spec["job"]["entryClass"]]
    with (
        flink(environment, "standalone-job.sh", *main, *words) as application,
        flink(environment, "taskmanager.sh"),
    ):
        wait_for(lambda: lists(broker) or application.poll() is not None, PATIENCE_S, "the list", 1)
        said = (tmp_path / "standalone-job.sh.out").read_text()
        assert [each["trigger_event_id"] for each in lists(broker)] == ["a"], said[-4000:]
        with urllib.request.urlopen(f"{rest}/jobs", timeout=10) as answer:
            (job,) = json.load(answer)["jobs"]
        cancel = urllib.request.Request(f"{rest}/jobs/{job['id']}?mode=cancel", method="PATCH")
        urllib.request.urlopen(cancel, timeout=10).close()
        assert application.wait(60) == 0  # Kubernetes sees that it has ended, and ended well


def lists(broker: Broker) -> list[dict]:
    client = {"bootstrap.servers": broker.bootstrap}
    return [json.loads(each.value()) for each in messages(client, "a-lists", "earliest", "latest")]
