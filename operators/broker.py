"""A real Apache Kafka broker in KRaft mode: one node, on the loopback address only.

    with Broker() as broker:                       # a free port, a folder of its own
        broker.create_topics({"user-events": 4})
        producer = Producer({"bootstrap.servers": broker.bootstrap})

`kill()` is SIGKILL, for fault tests; `start()` afterwards goes on with the same folder and port.
The process ends with the one that started it, however that ends (see tether.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from operators import tether
from operators.jars import broker_jars
from operators.java import find_java

HOST = "127.0.0.1"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # above the 1 MiB an event may have, so that it can be refused
START_SECONDS = 90.0
_CLUSTER_ID = "c3RyZWFtcmVjLWJyb2tlcg"
_HEAP = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
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


class Broker:
    """One Kafka broker process; `port=0` takes a free port, no directory a temporary one."""

    def __init__(self, port: int = 0, directory: Path | str | None = None) -> None:
        self._temporary = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix="streamrec-broker-")).absolute()
        self.port = port or free_port()
        self._tether: subprocess.Popen[str] | None = None
        self._pid: int | None = None

    @property
    def bootstrap(self) -> str:
        """The `bootstrap.servers` of clients."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id, None while it is not running."""
        running = self._tether is not None and self._tether.poll() is None
        return self._pid if running else None

    def start(self) -> Broker:
        """Start and wait until the broker answers; raises BrokerError saying why it did not."""
        refuse_taken_port(self.port)
        command = prepare(self.directory, self.port)
        removed = str(self.directory) if self._temporary else None
        with _output(self.directory).open("ab") as output:
            self._tether = subprocess.Popen(
                tether.command(command, remove=removed),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the parent, which stops the broker
            )
        assert self._tether.stdout is not None
        self._pid = int(self._tether.stdout.readline() or 0)
        try:
            wait_until_it_answers(self.bootstrap, self.directory, lambda: self.pid is not None)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop in good order; the folder stays, so that `start()` goes on with it."""
        if self._tether is not None and self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                if self._tether.poll() is None:
                    os.kill(self._pid, signal.SIGTERM)
            self._end_tether()

    def kill(self) -> None:
        """SIGKILL, as a power cut would; the folder stays."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self._end_tether()

    def close(self) -> None:
        """Stop, and remove the folder if it was a temporary one."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def create_topics(
        self, topics: Mapping[str, int], config: Mapping[str, str] | None = None
    ) -> None:
        """Create topics (name → partitions) that do not exist yet, and wait until they do."""
        create_topics(self.bootstrap, topics, config)

    def _end_tether(self) -> None:
        assert self._tether is not None
        try:
            self._tether.wait(tether.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            assert self._pid is not None
            os.kill(self._pid, signal.SIGKILL)
            self._tether.wait()
        for pipe in (self._tether.stdin, self._tether.stdout):
            if pipe is not None:
                pipe.close()
        self._tether = None

    def __enter__(self) -> Broker:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def refuse_taken_port(port: int) -> None:
    """Raise BrokerError if something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BrokerError(
                f"port {port} of {HOST} cannot be used ({error.strerror}). "
                "Stop what listens there, or choose another with --port."
            ) from error


def prepare(directory: Path, port: int) -> list[str]:
    """Write the settings, format the folder if it is new, and give the command that serves it."""
    java = [str(find_java().executable), *_HEAP]
    java += ["-cp", os.pathsep.join(map(str, broker_jars()))]
    java += [f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}"]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "log4j2.properties").write_text(_LOGGING.format(log=log_file(directory)))
    settings = directory / "server.properties"
    settings.write_text(_properties(directory, port))
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


def _properties(directory: Path, port: int) -> str:
    controller = free_port()
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": directory / "data",
        "message.max.bytes": MAX_MESSAGE_BYTES,
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
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def wait_until_it_answers(bootstrap: str, directory: Path, alive: Any) -> None:
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


def create_topics(
    bootstrap: str, topics: Mapping[str, int], config: Mapping[str, str] | None = None
) -> None:
    """Create topics (name → partitions) that do not exist yet, and wait until they do."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = [
        NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        for name, partitions in topics.items()
    ]
    for created in admin.create_topics(wanted, operation_timeout=30).values():
        try:
            created.result(timeout=30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def log_file(directory: Path) -> Path:
    """Where the broker writes its warnings and errors."""
    return directory / "broker.log"


def _output(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "output.log"


def last_words(directory: Path, lines: int = 15) -> str:
    """The last lines of what the broker logged, for an error message."""
    texts = [
        path.read_text(errors="replace")
        for path in (log_file(directory), _output(directory))
        if path.exists()
    ]
    tail = [line for text in texts for line in text.splitlines()][-lines:]
    return "\n".join(["Its last log lines:", *tail]) if tail else "It logged nothing."
