"""Jobs as processes beside the demo, each on a tether: it ends with this process, however.

Each has a folder for all that it writes, which goes with it (see operators/tether.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from operators import tether
from operators.ports import HOST, free_port
from operators.rest import Rest

ROOT = Path(__file__).resolve().parents[2]
J = TypeVar("J", bound="Job")
FAILURES = 3  # as often the job may fail while starting before the demo gives up


class DemoError(RuntimeError):
    """The demo can not go on; the message says why and what to do."""


class Job:
    """`python -m jobs NAME` as a process of its own."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"streamrec-{name}-"))
        self.settings = dict(settings)
        self._tether: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        config = self.folder / "settings.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        command = [sys.executable, "-m", "jobs", self.name, "--config", str(config)]
        with (self.folder / "job.log").open("wb") as log:
            self._tether = subprocess.Popen(
                tether.command(command, str(self.folder)),
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the demo, which stops the job
            )

    def __enter__(self: J) -> J:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def running(self) -> bool:
        """Whether the process is still at work; raises DemoError if it failed."""
        assert self._tether is not None
        code = self._tether.poll()
        if code:
            raise DemoError(f"the {self.name} job ended with code {code}.\n{self.last_words()}")
        return code is None

    def check(self) -> None:
        """Raise DemoError with the job's last words if it has ended, well or not."""
        if not self.running():
            raise DemoError(f"the {self.name} job ended.\n{self.last_words()}")

    def last_words(self) -> str:
        """The last lines of what the job printed and of the warnings that Flink logged."""
        printed = _lines([self.folder / "job.log"])
        logged = _lines(self.folder.glob("flink-log/*.log"))
        warnings = [line for line in logged if " WARN " in line or " ERROR " in line]
        text = ["Its last lines:", *(printed[-20:] or ["(none)"])]
        if warnings:
            text += ["Flink's last warnings:", *warnings[-5:]]
        return "\n".join(text)

    def let_go(self) -> None:
        """Tell the process to stop in good order; do not wait."""
        if self._tether is not None:
            for pipe in (self._tether.stdin, self._tether.stdout):
                if pipe is not None:
                    pipe.close()

    def close(self) -> None:
        """Stop the process and remove its folder."""
        self.let_go()
        if self._tether is not None:
            try:
                self._tether.wait(tether.GRACE_SECONDS + 5)
            except subprocess.TimeoutExpired:
                self._tether.kill()
                self._tether.wait()
            with suppress(ProcessLookupError):  # a JVM that was still starting outlives the job
                os.killpg(self._tether.pid, signal.SIGKILL)
        self._remove_folder()

    def _remove_folder(self) -> None:
        """Again and again for a moment: a process that was just killed may still have written."""
        for _ in range(50):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        """This process's environment, with the job's files in its folder, without its settings."""
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("STREAMREC_")}
        java = f"{kept.get('JAVA_TOOL_OPTIONS', '')} -Djava.io.tmpdir={scratch}".strip()
        own = {"TMPDIR": str(scratch), "FLINK_LOG_DIR": str(self.folder / "flink-log")}
        return {**kept, **own, "JAVA_TOOL_OPTIONS": java}


class FlinkJob(Job):
    """A job that Flink runs, inside its process, between topics of a broker."""

    def __init__(
        self,
        name: str,
        bootstrap: str,
        profile: str,
        settings: Mapping[str, Any],
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(name, settings)
        self.rest = Rest(f"{HOST}:{free_port()}")
        self._id = ""
        kafka = {"bootstrap": bootstrap, "group": f"streamrec-{name}", "start": "earliest"}
        self.settings |= {"kafka": kafka, "engine": self._engine(profile, options)}

    def check_start(self) -> None:
        """Like `check`, and also if Flink had to start it again several times."""
        self.check()
        failures = self._failures()
        if len(failures) >= FAILURES:
            cause = failures[0]["stacktrace"].strip()[-3000:]
            raise DemoError(f"the {self.name} job fails again and again; Flink's reason:\n{cause}")

    def counters(self) -> dict[str, int]:
        """The job's own counters by name, read over REST; none while it does not answer."""
        from operators.running import counters  # it imports Flink, which takes a moment

        try:
            return counters(self.rest, self._job_id())
        except (OSError, LookupError):
            return {}

    def _engine(self, profile: str, options: Mapping[str, str]) -> dict[str, Any]:
        return {
            "profile": profile,
            "rest_port": int(self.rest.address.rpartition(":")[2]),
            "checkpoint_dir": (self.folder / "checkpoints").as_uri(),
            "options": dict(options),
        }

    def _job_id(self) -> str:
        if not self._id:
            self._id = str(self.rest.get("/jobs/overview")["jobs"][0]["jid"])
        return self._id

    def _failures(self) -> list[Mapping[str, str]]:
        try:
            found = self.rest.get(f"/jobs/{self._job_id()}/exceptions")
        except (OSError, LookupError):
            return []
        entries: list[Mapping[str, str]] = found["exceptionHistory"]["entries"]
        return entries


def _lines(files: Iterable[Path]) -> list[str]:
    texts = [file.read_text(errors="replace") for file in files if file.exists()]
    return [line for text in texts for line in text.splitlines() if line.strip()]
