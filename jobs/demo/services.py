"""What the demo runs beside itself: a broker and the recommend job, gone when the demo is.

Each runs on a tether (operators/tether.py): it ends with this process, however that ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from operators import tether
from operators.broker import Broker, free_port

ROOT = Path(__file__).resolve().parents[2]
TOPICS = {"user-events": 4, "recommendations": 4, "dead-letters": 1}
FAILURES = 3  # as often the job may fail while starting before the demo gives up


class DemoError(RuntimeError):
    """The demo can not go on; the message says why and what to do."""


class Job:
    """`python -m jobs recommend` as a process of its own, with a folder for all it writes."""

    def __init__(self, bootstrap: str, profile: str, bundle: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="streamrec-demo-"))
        self.rest = f"http://127.0.0.1:{free_port()}"
        self._tether: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._id = ""
        settings = self._settings(bootstrap, profile, bundle)
        (self.folder / "recommend.yaml").write_text(yaml.safe_dump(settings))

    def start(self) -> None:
        """Start the process; it is ready when the first list comes."""
        command = [sys.executable, "-m", "jobs", "recommend", "--config"]
        with (self.folder / "job.log").open("wb") as log:
            self._tether = subprocess.Popen(
                tether.command([*command, str(self.folder / "recommend.yaml")], str(self.folder)),
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the demo, which stops the job
            )
        assert self._tether.stdout is not None
        self._pid = int(self._tether.stdout.readline() or 0)

    def check(self) -> None:
        """Raise DemoError with the job's last words if it has ended or keeps failing."""
        if self._tether is None or self._tether.poll() is not None:
            raise DemoError(f"the recommend job ended.\n{self.last_words()}")

    def check_start(self) -> None:
        """Like `check`, and also if Flink had to start it again several times."""
        self.check()
        failures = self._failures()
        if len(failures) >= FAILURES:
            cause = failures[0]["stacktrace"].strip()[-3000:]
            raise DemoError(f"the recommend job fails again and again; Flink's reason:\n{cause}")

    def counters(self) -> dict[str, int]:
        """The job's own counters by name, read over REST; none while it does not answer."""
        from operators.running import counters  # it imports Flink, which takes a moment

        try:
            return counters(self.rest, self._job_id())
        except (OSError, LookupError):
            return {}

    def last_words(self) -> str:
        """The last lines of what the job printed and of the warnings that Flink logged."""
        printed = _lines([self.folder / "job.log"])
        logged = _lines(self.folder.glob("flink-log/*.log"))
        warnings = [line for line in logged if " WARN " in line or " ERROR " in line]
        text = ["Its last lines:", *(printed[-20:] or ["(none)"])]
        if warnings:
            text += ["Flink's last warnings:", *warnings[-5:]]
        return "\n".join(text)

    def close(self) -> None:
        """Stop the process and remove its folder."""
        if self._tether is not None:
            for pipe in (self._tether.stdin, self._tether.stdout):
                if pipe is not None:
                    pipe.close()  # the tether lets go, and the job is stopped in good order
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

    def _settings(self, bootstrap: str, profile: str, bundle: Path) -> dict[str, Any]:
        scratch = str(self.folder / "scratch")
        return {
            "kafka": {"bootstrap": bootstrap, "group": "streamrec-demo", "start": "earliest"},
            "engine": {
                "profile": profile,
                "rest_port": int(self.rest.rpartition(":")[2]),
                "checkpoint_dir": (self.folder / "checkpoints").as_uri(),
                "options": {
                    "io.tmp.dirs": scratch,
                    "web.tmpdir": scratch,
                    "blob.storage.directory": scratch,
                },
            },
            "bundle": str(bundle.resolve()),
        }

    def _environment(self) -> dict[str, str]:
        """This process's environment, with the job's files in its folder, without its settings."""
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("STREAMREC_")}
        java = f"{kept.get('JAVA_TOOL_OPTIONS', '')} -Djava.io.tmpdir={scratch}".strip()
        own = {"TMPDIR": str(scratch), "FLINK_LOG_DIR": str(self.folder / "flink-log")}
        return {**kept, **own, "JAVA_TOOL_OPTIONS": java}

    def _job_id(self) -> str:
        if not self._id:
            self._id = str(self._get("/jobs/overview")["jobs"][0]["jid"])
        return self._id

    def _failures(self) -> list[Mapping[str, str]]:
        try:
            found = self._get(f"/jobs/{self._job_id()}/exceptions")
        except (OSError, LookupError):
            return []
        entries: list[Mapping[str, str]] = found["exceptionHistory"]["entries"]
        return entries

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.rest + path, timeout=5) as response:
            return json.load(response)


def _lines(files: Iterable[Path]) -> list[str]:
    texts = [file.read_text(errors="replace") for file in files if file.exists()]
    return [line for text in texts for line in text.splitlines() if line.strip()]


class Services:
    """The broker and, once it answers, the job."""

    def __init__(self, profile: str, bundle: Path) -> None:
        self.broker = Broker()
        self.job = Job(self.broker.bootstrap, profile, bundle)

    def start(self) -> None:
        """Start both: the job refuses to start without its topics. Ready with the first list."""
        self.broker.start()
        self.broker.create_topics(TOPICS)
        self.job.start()

    def check(self) -> None:
        """Raise DemoError if the broker or the job has ended."""
        if self.broker.pid is None:
            raise DemoError("the broker ended; its folder is gone with it. Start the demo again.")
        self.job.check()

    def close(self) -> None:
        """Stop both and remove what they wrote."""
        try:
            self.job.close()
        finally:
            self.broker.close()
