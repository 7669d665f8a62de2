"""What a demo runs beside itself: a broker and jobs, gone when the demo is."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, TypeVar

from rich.console import Console

from jobs.demo.processes import DemoError, Job
from operators.broker import Broker, BrokerError
from operators.jars import JarError
from operators.java import JavaMissingError

J = TypeVar("J", bound=Job)


class Services:
    """A broker and the jobs that were started beside it; `with` ends and removes them all."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.jobs: list[Job] = []

    def start_broker(self, topics: Mapping[str, int]) -> None:
        """Start the broker, with topics: jobs refuse to start without theirs."""
        self.broker.start()
        self.broker.create_topics(topics)

    def start(self, job: J) -> J:
        """Start a job, which is to go on until the end."""
        self.jobs.append(job)
        job.start()
        return job

    def check(self) -> None:
        """Raise DemoError if the broker or a job has ended."""
        if self.broker.pid is None:
            raise DemoError("the broker ended; its folder is gone with it. Start the demo again.")
        for job in self.jobs:
            job.check()

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all and remove what they wrote; a second Ctrl-C does not interrupt it."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        with ExitStack() as stack:
            stack.callback(self.broker.close)
            for job in self.jobs:
                job.let_go()
                stack.callback(job.close)


def conduct(perform: Callable[[Console], int]) -> NoReturn:
    """End the process with the code of `perform`, or in a sentence on what went wrong."""
    say = Console(stderr=True, highlight=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        code = perform(say)
    except (DemoError, BrokerError, JarError, JavaMissingError) as error:
        say.print(f"streamrec: {error}", markup=False)
        code = 1
    except KeyboardInterrupt:
        say.print("streamrec: stopped; nothing of the demo is left running.")
        code = 130
    sys.exit(code)


def seconds_since_process_start() -> float:
    """Age of this process, the shell that became it (scripts/demo) and its set-up included."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
