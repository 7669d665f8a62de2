"""Write records to the broker, read them back, run jobs as a user would: as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from operators.kafka import MAX_RECORD_BYTES

ROOT = Path(__file__).resolve().parent.parent
# Soon up, and many on few cores; not fast. To verify Flink's own classes takes a sixth of a start.
JVM = (
    "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:MetaspaceSize=256m "
    "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
Headers = list[tuple[str, bytes | None]]
T = TypeVar("T")
PATIENCE_S = 240  # a busy machine takes minutes to start a job
TRANSIENT = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
"""What a broker answers for a moment about a topic that was just made."""


@dataclass(frozen=True)
class Record:
    """One Kafka record, as it is sent or was received."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=list)
    partition: int = -1
    offset: int = -1
    sent_ms: int = 0  # by the producer's clock; 0 is now


def send(bootstrap: str, topic: str, records: Iterable[Record]) -> list[Record]:
    """Send in order and wait; returns the records with their partitions and offsets."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "message.max.bytes": MAX_RECORD_BYTES,
            "compression.type": "lz4",
        }
    )
    sent: list[Record] = []

    def delivered(record: Record) -> Callable[[Any, Message], None]:
        def note(error: Any, message: Message) -> None:
            assert error is None, error
            place = (message.partition(), message.offset())
            sent.append(Record(record.value, record.key, record.headers, *place))  # type: ignore

        return note

    for record in records:
        headers = [*record.headers]
        producer.produce(
            topic, record.value, record.key, headers=headers, on_delivery=delivered(record)
        )
        producer.poll(0)
    producer.flush()
    return sent


class Reader:
    """Reads one topic again and again with one consumer, each time up to its present end."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "tests",
                "enable.auto.commit": False,
                "fetch.message.max.bytes": MAX_RECORD_BYTES,
                "receive.message.max.bytes": 10 * MAX_RECORD_BYTES,
            }
        )
        self._places: dict[int, int] = {}  # partition → next offset
        self._records: list[Record] = []

    def read(self) -> list[Record]:
        """All records of the topic so far, partition by partition."""
        if not self._places:
            self._places = dict.fromkeys(patiently(self._partitions), 0)
            assigned = [TopicPartition(self.topic, number, 0) for number in self._places]
            self._consumer.assign(assigned)
        ends = {number: patiently(lambda n=number: self._end(n)) for number in self._places}
        deadline = time.monotonic() + PATIENCE_S
        while any(self._places[number] < end for number, end in ends.items()):
            assert time.monotonic() < deadline, f"{self.topic} ended at {self._places}, not {ends}"
            message = self._consumer.poll(1)
            if message is not None:
                self._take(message)
        return sorted(self._records, key=lambda record: (record.partition, record.offset))

    def close(self) -> None:
        self._consumer.close()

    def _partitions(self) -> list[int]:
        found = self._consumer.list_topics(self.topic, 10).topics[self.topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)

    def _end(self, number: int) -> int:
        return self._consumer.get_watermark_offsets(TopicPartition(self.topic, number), 10)[1]

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            assert error.code() in TRANSIENT, error
            return
        record = Record(
            message.value(),  # type: ignore[arg-type]
            message.key(),  # type: ignore[arg-type]
            list(message.headers() or []),  # type: ignore[arg-type]
            message.partition() or 0,
            message.offset() or 0,
        )
        self._records.append(record)
        self._places[record.partition] = record.offset + 1


def read(bootstrap: str, topic: str) -> list[Record]:
    """Every record of the topic up to its present end, partition by partition."""
    with closing(Reader(bootstrap, topic)) as reader:
        return reader.read()


def patiently(call: Callable[[], T]) -> T:
    """The call's result; asks again while the broker has not settled on a new topic's leader."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except KafkaException as problem:
            if problem.args[0].code() not in TRANSIENT or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def job(name: str, *settings: str) -> list[str]:
    """The command line of a job with `key=value` settings."""
    sets = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "jobs", name, *sets]


def environment(state: Path) -> dict[str, str]:
    """The environment of a job process that keeps its state, logs and the like in `state`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STREAMREC_", "FLINK_"))}
    state.mkdir(parents=True, exist_ok=True)
    own = {"XDG_STATE_HOME": str(state), "TMPDIR": tempfile.mkdtemp(prefix="tmp-", dir=state)}
    java = {"JVM_ARGS": "-Xmx2g", "JDK_JAVA_OPTIONS": JVM}  # the latter of a cluster's JVMs too
    return java | kept | own


def completed(
    state: Path, command: list[str], seconds: float = PATIENCE_S, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of the project, which must leave no temporary files, to its end."""
    own = environment(state)
    done = subprocess.run(
        command,
        input=stdin,
        cwd=ROOT,
        env=own,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    check_left(own)
    return done


def run_to_end(state: Path, name: str, *settings: str) -> str:
    """Run a bounded job; returns what it wrote to the screen, fails with it otherwise."""
    command = job(name, "kafka.bounded=true", "kafka.start=earliest", *settings)
    done = completed(state, command)
    assert done.returncode == 0, done.stderr[-4000:] + last_words(state)
    return done.stderr


@contextmanager
def running(state: Path, name: str, *settings: str) -> Iterator[subprocess.Popen[str]]:
    """A streaming job as a process; it is stopped with SIGTERM, as an operator would.

    It must leave no temporary files. If the test fails meanwhile, what the job said is printed, for
    pytest to show.
    """
    own = environment(state)
    with screen(state, name).open("w") as output:
        process = subprocess.Popen(
            job(name, *settings), cwd=ROOT, env=own, stderr=output, text=True
        )
        try:
            yield process
        except BaseException:
            print(screen(state, name).read_text()[-4000:], last_words(state), sep="\n")
            raise
        finally:
            process.terminate()
            process.wait(60)
    check_left(own)


def check_left(own: Mapping[str, str]) -> None:
    """Fails if a process that had this environment has left a temporary file.

    Its JVM ends a moment after it, and removes its own only then.
    """
    deadline = time.monotonic() + 20
    while left := [each.name for each in Path(own["TMPDIR"]).iterdir()]:
        assert time.monotonic() < deadline, f"temporary files were left: {left}"
        time.sleep(0.1)


def python_workers(pid: int) -> list[int]:
    """The process ids of the Python workers that Flink started below process `pid`."""
    return [
        child.pid
        for child in psutil.Process(pid).children(recursive=True)
        if "python" in child.name() and any("beam_boot" in word for word in child.cmdline())
    ]


def screen(state: Path, name: str) -> Path:
    """The file with what a job of `running` wrote to the screen."""
    return state / f"{name}.out"


def last_words(state: Path, lines: int = 40) -> str:
    """The last warnings, errors and changes of state in the Flink logs below `state`."""
    told = [
        line[:400]
        for path in sorted(state.rglob("*.log"))
        for line in path.read_text("utf-8", "replace").splitlines()
        if any(mark in line for mark in (" ERROR ", " WARN ", "Caused by", "switched from"))
    ]
    return "\n".join(["", "Flink's last words:", *told[-lines:]])


def now_ms() -> int:
    """Epoch milliseconds, as brokers stamp records."""
    return int(time.time() * 1000)


def wait_for(condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.5) -> None:
    """Wait until the condition holds; fails saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(pause)
