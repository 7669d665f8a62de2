"""How one Kafka process in KRaft mode is configured, formatted, waited for and explained."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from operators.jars import broker_jars
from operators.java import find_java
from operators.ports import HOST, free_port, why_taken
from udfs.events import MAX_AHEAD_MS

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # above the 1 MiB an event may have, so that it can be refused
START_SECONDS = 90.0
_CLUSTER_ID = "c3RyZWFtcmVjLWJyb2tlcg"
_HEAP = ("-Xmx512m", "-Djava.awt.headless=true")
# Ready soon rather than fast for long; Kafka's own variable says otherwise.
_PERFORMANCE = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
_LOGGING = """\
status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""


class BrokerError(RuntimeError):
    """The broker did not start, or does not answer."""


def refuse_taken_port(port: int) -> None:
    """Raise BrokerError if something listens on the port already."""
    if why := why_taken(port):
        raise BrokerError(
            f"port {port} of {HOST} cannot be used ({why}). "
            "Stop what listens there, or choose another with --port."
        )


def prepare(directory: Path, port: int, options: Mapping[str, str] | None = None) -> list[str]:
    """Write the settings, format the folder if it is new, and give the command that serves it.

    `options` replace settings, but listeners come beside those that are there.
    """
    performance = os.environ.get("KAFKA_JVM_PERFORMANCE_OPTS", _PERFORMANCE).split()
    java = [str(find_java().executable), *_HEAP, *performance]
    java += ["-cp", os.pathsep.join(map(str, broker_jars()))]
    java += [f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}"]
    # What Kafka unpacks goes with the folder, though its process may be killed.
    java += [f"-Djava.io.tmpdir={directory / 'tmp'}"]
    (directory / "tmp").mkdir(parents=True, exist_ok=True)
    (directory / "log4j2.properties").write_text(_LOGGING.format(log=log_file(directory)))
    settings = directory / "server.properties"
    settings.write_text(_properties(directory, port, options or {}))
    if not (directory / "data" / "meta.properties").exists():
        _format(java, settings)
    return [*java, "kafka.Kafka", str(settings)]


def _format(java: list[str], settings: Path) -> None:
    tool = [*java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(settings)]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=START_SECONDS)
    if done.returncode != 0:
        raise BrokerError(
            f"the broker's folder {settings.parent} could not be formatted: "
            f"{(done.stderr or done.stdout).strip()[-2000:]}"
        )


def _properties(directory: Path, port: int, options: Mapping[str, str]) -> str:
    controller = free_port()
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": directory / "data",
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "log.message.timestamp.after.max.ms": MAX_AHEAD_MS,  # no producer's clock moves watermarks
        "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "broker.session.timeout.ms": 6000,  # a killed broker is let back in after this
        "broker.heartbeat.interval.ms": 1000,
        "group.initial.rebalance.delay.ms": 0,
        "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
    }
    for name, value in options.items():
        beside = f"{settings[name]}," if name in ("listeners", "advertised.listeners") else ""
        settings[name] = beside + value
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def wait_until_it_answers(bootstrap: str, directory: Path, alive: Callable[[], bool]) -> None:
    """Ask for the cluster's metadata until it comes; BrokerError if the process ends before."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not alive():
            raise BrokerError(f"the broker ended while starting.\n{last_words(directory)}")
        if not _listens(bootstrap):
            time.sleep(0.1)
            continue
        with contextlib.suppress(KafkaException):
            admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
            if admin.list_topics(timeout=2).brokers:
                return
    raise BrokerError(
        f"the broker did not answer on {bootstrap} within {START_SECONDS:.0f} s.\n"
        f"{last_words(directory)}"
    )


def _listens(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def log_file(directory: Path) -> Path:
    """Where the broker writes its warnings and errors."""
    return directory / "broker.log"


def output_file(directory: Path) -> Path:
    """Where what the process prints goes; its folder is made if needed."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "output.log"


def last_words(directory: Path, lines: int = 15) -> str:
    """The last lines of what the broker logged, for an error message."""
    texts = [
        path.read_text(errors="replace")
        for path in (log_file(directory), output_file(directory))
        if path.exists()
    ]
    tail = [line for text in texts for line in text.splitlines()][-lines:]
    return "\n".join(["Its last log lines:", *tail]) if tail else "It logged nothing."
