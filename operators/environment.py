"""A profile and its options → a table environment with real workers, never the loopback one."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

from operators.configuration import CONF, ROOT, overlay, state_folder
from operators.jars import connector_jar
from operators.java import java_home
from operators.ports import HOST, free_port
from operators.release import archived, released
from operators.tls import PLAIN, Tls

Mode = Literal["thread", "process"]

# Of the process that runs the job locally. Code that is compiled once, quickly, answers evenly
# from the first second; the optimising compiler would take the cores for a minute to save little.
# The parallel collector pauses least often: each pause is waited for by every event of 20-40 ms.
_JVM = {
    "latency": "-Xmx2g -XX:+UseParallelGC -XX:TieredStopAtLevel=1",
    "throughput": "-Xmx2g -XX:+UseParallelGC",
}

# PyFlink submits jobs without looking at config.yaml, which is then the cluster's alone.
_OF_A_JOB = ("execution.", "pipeline.", "restart-strategy.", "table.")

# `flink run`, or a cluster whose application this is, says where a job runs and who waits for it.
_BY_FLINK = "PYFLINK_GATEWAY_PORT" in os.environ


class Engine(BaseModel):
    """How Flink runs the job; everything else about Flink stands in flink-conf/."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Literal["latency", "throughput"] = Field(
        "latency", description="latency: thread mode, row by row; throughput: process mode, pandas"
    )
    parallelism: int = Field(1, ge=1, le=1024, description="slots; in thread mode 1 is best")
    jobmanager: str | None = Field(
        None, description="host:port of a running cluster's REST; null runs inside this process"
    )
    tls: Tls = PLAIN
    detached: bool = Field(
        False, description="on a cluster: leave the job there once it runs, instead of showing it"
    )
    rest_port: int = Field(0, ge=0, le=65535, description="REST of the local run; 0 = any free")
    checkpoint_dir: str | None = Field(
        None, description="URI of a folder all workers reach; null: in the user's state folder"
    )
    code_dir: str | None = Field(
        None,
        description="folder all workers reach, for the code of jobs on a cluster; null: in "
        "the user's state folder",
    )
    send_code: bool = Field(
        False, description="on a cluster: send the code along, so that no folder need be shared"
    )
    checkpoint_interval_s: float = Field(30, gt=0, description="seconds between checkpoints")
    options: dict[str, str] = Field({}, description="further Flink options, applied last")


def table_environment(engine: Engine, job: str) -> TableEnvironment:
    """The environment in which `job` runs: locally, or on the cluster at `engine.jobmanager`."""
    os.environ["JAVA_HOME"] = str(java_home())
    os.environ["FLINK_CONF_DIR"] = str(CONF)
    os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112 (no loopback)
    os.environ.setdefault("FLINK_LOG_DIR", str(state_folder() / "log"))
    Path(os.environ["FLINK_LOG_DIR"]).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FLINK_IDENT_STRING", job)  # names the log file
    os.environ.setdefault("JVM_ARGS", _JVM[engine.profile])
    os.environ["PYTHONPATH"] = _python_path(ROOT)
    own = _temporary(job) if _is_local(engine) else _handed_over(engine, job)
    configuration = Configuration()  # starts the JVM
    for key, value in (own | options(engine, job)).items():
        configuration.set_string(key, value)
    settings = EnvironmentSettings.new_instance().in_streaming_mode()
    return TableEnvironment.create(settings.with_configuration(configuration).build())


def mode_of(engine: Engine) -> Mode:
    """The mode in which the profile runs Python: thread (one row) or process (pandas)."""
    return overlay(engine.profile)["python.execution-mode"]  # type: ignore[return-value]


def options(engine: Engine, job: str) -> dict[str, str]:
    """Flink's options for `job`: the profile's, then the job's own, then `engine.options`."""
    return (
        {key: value for key, value in overlay("config").items() if key.startswith(_OF_A_JOB)}
        | overlay(engine.profile)
        | _target(engine)
        | {
            "pipeline.name": pipeline_name(job),
            "pipeline.jars": connector_jar().as_uri(),
            "parallelism.default": str(engine.parallelism),
            "execution.checkpointing.dir": checkpoints(engine, job),
            "execution.checkpointing.savepoint-dir": savepoints(engine, job),
            "execution.checkpointing.interval": f"{round(engine.checkpoint_interval_s * 1000)} ms",
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
        }
        | _code(engine)
        | engine.options
    )


def pipeline_name(job: str) -> str:
    """The name by which Flink shows the job."""
    return f"streamrec {job}"


def checkpoints(engine: Engine, job: str) -> str:
    """URI of the folder of the job's checkpoints: those of one run are below its job id."""
    return engine.checkpoint_dir or (state_folder() / "checkpoints" / job).as_uri()


def savepoints(engine: Engine, job: str) -> str:
    """URI of the folder of the job's savepoints."""
    return f"{checkpoints(engine, job).rstrip('/')}/savepoints"


def _is_local(engine: Engine) -> bool:
    return engine.jobmanager is None and not _BY_FLINK


def _handed_over(engine: Engine, job: str) -> dict[str, str]:
    """Options by which the job is given to a cluster, with TLS if that is asked for.

    Flink leaves a folder in the JVM's temporary one for each job with which files are sent.
    """
    folder = _removed_at_the_end(job)
    if not any(map(str.isspace, folder)):  # PyFlink splits these words at every space
        os.environ["JVM_ARGS"] += f" -Djava.io.tmpdir={folder}"
    return engine.tls.options(Path(folder) / "tls")


def _temporary(job: str) -> dict[str, str]:
    """Options that keep the files of a local run in a folder of its own.

    Flink's default is one folder in /tmp, the same for all, which whoever made it alone may write.
    """
    folder = _removed_at_the_end(job)
    return {"io.tmp.dirs": folder, "web.tmpdir": folder}


def _removed_at_the_end(job: str) -> str:
    """A new folder, which is there as long as this process."""
    folder = tempfile.mkdtemp(prefix=f"streamrec-{job}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _target(engine: Engine) -> dict[str, str]:
    if _BY_FLINK:
        return {}
    if engine.jobmanager is None:
        return {
            "execution.target": "local",
            "rest.address": HOST,
            "rest.bind-address": HOST,
            "rest.port": str(engine.rest_port or free_port()),
            # A run inside this process cannot go on in another: its checkpoints end with it.
            "execution.checkpointing.externalized-checkpoint-retention": "DELETE_ON_CANCELLATION",
        }
    address, _, port = engine.jobmanager.rpartition(":")
    return {
        "execution.target": "remote",
        "execution.attached": str(not engine.detached).lower(),
        "rest.address": address,
        "rest.port": port,
    }


def _code(engine: Engine) -> dict[str, str]:
    """Where workers find this project: on a cluster, a copy that no later edit changes."""
    folder = Path(engine.code_dir) if engine.code_dir else state_folder() / "code"
    if _is_local(engine):
        return {"python.pythonpath": _python_path(ROOT)}
    if engine.send_code:
        return {"python.pythonpath": _python_path(), "python.files": str(archived(folder))}
    return {"python.pythonpath": _python_path(released(folder))}


def _python_path(*code: Path) -> str:
    """What workers import from: thread mode knows neither the venv nor editable installs."""
    return os.pathsep.join([sysconfig.get_paths()["purelib"], *map(str, code)])
