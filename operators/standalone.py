"""How the processes of a standalone Flink cluster are configured, launched and explained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from operators import tether
from operators.configuration import CONF, overlay, state_folder
from operators.java import java_home
from operators.ports import HOST
from operators.rest import Rest
from operators.tls import PLAIN, Tls

START_SECONDS = 180  # all processes start at once, on a busy machine it takes minutes
_CAUSE = re.compile(r"^Caused by: | (?:ERROR|FATAL) ")
# PEMJA keeps the interrupt of a task that was cancelled while its interpreter was set up, and
# throws it whenever one is set up later: no Python runs inside that process any more.
NO_PYTHON = (
    "java.lang.Error: java.lang.InterruptedException"
    "\n\tat pemja.core.PythonInterpreter$MainInterpreter.initialize"
)
# One server, for clients on this machine; Flink adds the ports a quorum would need.
_ZOOKEEPER = """\
dataDir={directory}/zookeeper
clientPortAddress={host}
clientPort={port}
tickTime=1000
initLimit=10
syncLimit=5
admin.enableServer=false
"""


class ClusterError(RuntimeError):
    """The cluster did not come up; says which process and shows the end of its log."""


def default_directory() -> Path:
    """${XDG_STATE_HOME:-~/.local/state}/streamrec/cluster"""
    return state_folder() / "cluster"


def noted(directory: Path) -> dict[str, Any] | None:
    """What was noted of the cluster in this folder when it was started, None if none was."""
    try:
        note: dict[str, Any] = json.loads((directory / "cluster.json").read_text())
    except OSError:
        return None
    return note


def rests(note: Mapping[str, Any]) -> list[Rest]:
    """Where the JobManagers of a noted cluster answer; ClusterError without its certificates."""
    try:
        tls = Tls.model_validate(note.get("tls", {}))
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise ClusterError(f"the certificates of the cluster cannot be read: {why}") from None
    return [Rest(address, tls) for address in note["rest"]]


def prepare(directory: Path, slots: int, options: Mapping[str, str], tls: Tls = PLAIN) -> None:
    """Write the configuration that all processes share, and link their jars.

    `options` lie over flink-conf/config.yaml; every process listens on the loopback address only.
    ClusterError if the certificate is not theirs.
    """
    try:
        tls.require_names(HOST, "localhost")  # clients say the one, TaskManagers the other
    except ValueError as error:
        raise ClusterError(str(error)) from None
    shutil.copytree(CONF, directory / "conf", dirs_exist_ok=True)
    (directory / "tmp").mkdir(exist_ok=True)
    shared = {
        "jobmanager.rpc.address": HOST,
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "taskmanager.numberOfTaskSlots": str(slots),
        "io.tmp.dirs": str(directory / "tmp"),
    }
    written = overlay("config") | shared | tls.options(directory / "tls") | dict(options)
    configuration = directory / "conf" / "config.yaml"
    configuration.chmod(0o600)  # it may hold the password of a key store
    configuration.write_text(yaml.safe_dump(written), "utf-8")
    _link_libraries(directory / "lib")


def high_availability(directory: Path, port: int) -> dict[str, str]:
    """Options with which JobManagers elect a leader; ZooKeeper is to listen on `port`."""
    (directory / "conf").mkdir(parents=True, exist_ok=True)
    zookeeper = _ZOOKEEPER.format(directory=directory, host=HOST, port=port)
    (directory / "conf" / "zoo.cfg").write_text(zookeeper)
    return overlay("high-availability") | {
        "high-availability.zookeeper.quorum": f"{HOST}:{port}",
        "high-availability.storageDir": (directory / "high-availability").as_uri(),
    }


def launch(
    directory: Path, name: str, options: Mapping[str, str] | None = None, outlive: bool = False
) -> subprocess.Popen[str]:
    """The tether of a process named ROLE-NUMBER, which is started again should it end by itself.

    Its roles: jobmanager, taskmanager, zookeeper. A TaskManager in which no Python can run any more
    is ended, and so started again. Unless it is to `outlive` this process it ends with it, the
    folder goes then, and its id is the first line of what the tether writes.
    """
    command, environment = _program(directory, name, options)
    removed = None if outlive else str(directory)
    # A JobManager's log tells that of its TaskManagers.
    fatal = (str(directory / name), NO_PYTHON) if name.startswith("taskmanager") else None
    words = tether.command(command, removed, again=True, outlive=outlive, fatal=fatal)
    with (directory / f"{name}.out").open("wb") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if outlive else subprocess.PIPE,
            stdout=output if outlive else subprocess.PIPE,
            stderr=output,
            env=environment,
            text=True,
            start_new_session=True,
        )


def _program(
    directory: Path, name: str, options: Mapping[str, str] | None
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of such a process; the command becomes the process itself."""
    role, home, conf = name.partition("-")[0], flink_home() / "bin", directory / "conf"
    (directory / name).mkdir(exist_ok=True)
    given = os.environ.get("JDK_JAVA_OPTIONS", "")
    environment = os.environ | {
        "JAVA_HOME": str(java_home()),
        "FLINK_CONF_DIR": str(conf),
        "FLINK_LIB_DIR": str(directory / "lib"),
        "FLINK_LOG_DIR": str(directory / name),
        "FLINK_PID_DIR": str(directory / name),
        # Whatever is unpacked goes with the folder, though its process may be killed; and what
        # a JVM says when it crashes stands with its log.
        "JDK_JAVA_OPTIONS": f'{given} -Djava.io.tmpdir="{directory / "tmp"}"'
        f' -XX:ErrorFile="{directory / name / "crash-%p.txt"}"'.lstrip(),
    }
    if role == "zookeeper":
        configuration = ["--zkConfigFile", str(conf / "zoo.cfg"), "--peerId", "1"]
        command = ["bash", str(home / "flink-console.sh"), role, *configuration]
        return command, environment | {"JVM_ARGS": "-Xmx256m"}
    own = [word for key, value in (options or {}).items() for word in ("-D", f"{key}={value}")]
    return ["bash", str(home / f"{role}.sh"), "start-foreground", *own], environment


def wait_for_slots(
    directory: Path, places: Sequence[Rest], slots: int, alive: Callable[[], bool]
) -> None:
    """Wait until every REST tells so many slots; ClusterError if a process ends before."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and alive():
        if all((_overview(rest) or {}).get("slots-total", -1) >= slots for rest in places):
            return
        time.sleep(0.3)
    logs = sorted([*directory.glob("*.out"), *directory.glob("*/*.log")])
    raise ClusterError(
        f"expected {slots} slots within {START_SECONDS} s and no process to end;"
        " what the logs say:\n" + "\n".join(map(_telling, logs))
    )


def answering(places: Sequence[Rest]) -> Rest | None:
    """The first REST that answers for the cluster, be it of the leader or of a standby."""
    return next((rest for rest in places if _overview(rest)), None)


def _overview(rest: Rest) -> dict[str, Any] | None:
    try:
        overview: dict[str, Any] = rest.get("/overview")
    except (OSError, HTTPException):  # not up yet, gone, or no leader is elected
        return None
    return overview


def _link_libraries(folder: Path) -> None:
    """Flink's jars and the one that runs Python, which the wheel keeps among the optional.

    Among a job's own jars it would be loaded anew for each job, and PEMJA's native library
    allows that only once a process.
    """
    folder.mkdir(exist_ok=True)
    for link in folder.iterdir():  # of an earlier start, perhaps of another Flink
        link.unlink()
    home = flink_home()
    for jar in [*home.glob("lib/*.jar"), *home.glob("opt/flink-python-*.jar")]:
        (folder / jar.name).symlink_to(jar)


def _telling(log: Path) -> str:
    """A log's name, its lines that name a cause, and how it ends.

    A process that fails writes its stack trace first and then much about how it stops.
    """
    lines = log.read_text("utf-8", "replace").splitlines()
    causes = [line for line in lines if _CAUSE.search(line)]
    return "\n".join([f"{log.parent.name}/{log.name}:", *causes[-5:], *lines[-5:]])


def flink_home() -> Path:
    """The distribution inside the `apache-flink` package."""
    spec = find_spec("pyflink")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
