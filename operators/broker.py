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
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from operators import tether
from operators.kraft import (
    BrokerError,
    output_file,
    prepare,
    refuse_taken_port,
    wait_until_it_answers,
)
from operators.ports import HOST, free_port
from operators.service import Service

__all__ = ["Broker", "BrokerError", "create_topics"]


class Broker(Service):
    """One Kafka broker process; `port=0` takes a free port, no directory a temporary one.

    `options` are further settings of the broker, for instance other listeners; the one at `port`
    stays without encryption.
    """

    def __init__(
        self,
        port: int = 0,
        directory: Path | str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix="streamrec-broker-")).absolute()
        self.port = port or free_port()
        self._options = dict(options or {})
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
        command = prepare(self.directory, self.port, self._options)
        removed = str(self.directory) if self._temporary else None
        with output_file(self.directory).open("ab") as output:
            self._tether = subprocess.Popen(
                tether.command(command, remove=removed),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the parent, which stops the broker
            )
        assert self._tether.stdout is not None
        self._pid = int(self._tether.stdout.readline() or 0) or None
        try:
            wait_until_it_answers(self.bootstrap, self.directory, lambda: self.pid is not None)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop in good order; the folder stays, so that `start()` goes on with it."""
        if self._tether is not None:
            if self.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGTERM)
            self._end_tether()

    def kill(self) -> None:
        """SIGKILL, as a power cut would; the folder stays."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
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
        create_topics({"bootstrap.servers": self.bootstrap}, topics, config)

    def _end_tether(self) -> None:
        assert self._tether is not None
        try:
            self._tether.wait(tether.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._tether.kill()  # the kernel then kills the broker
            self._tether.wait()
        for pipe in (self._tether.stdin, self._tether.stdout):
            if pipe is not None:
                pipe.close()
        self._tether = None
        self._pid = None


def create_topics(
    client: Mapping[str, str], topics: Mapping[str, int], config: Mapping[str, str] | None = None
) -> None:
    """Create topics (name → partitions) that do not exist yet, and wait until they do.

    `client` are settings of librdkafka, at least the `bootstrap.servers`.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    # Level 2: librdkafka logs a harmless line about its own queue when such a client is freed.
    admin = AdminClient({**client, "log_level": 2})
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
