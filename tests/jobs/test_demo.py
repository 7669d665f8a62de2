"""The demo as a user starts it: a process, which leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from jobs.demo.data import read_data
from jobs.demo.malformed import malformed
from jobs.demo.processes import ROOT
from operators.accounting import OUTCOMES, accounted
from tests.kafka import PATIENCE_S, wait_for

STARTER = ROOT / "models" / "starter" / "online-retail"


class Demo:
    """Runs the command in an empty temporary folder and finds what it leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.mark = f"DEMO_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.environment = {**os.environ, "TMPDIR": str(self.temporary), name: value}

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(ROOT / "scripts" / "demo"), *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str, str]:
        with self.start(*options) as process:
            out, err = process.communicate(timeout=280)
        return process.returncode, out, err

    def processes(self) -> list[str]:
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in environment.read_bytes().split(b"\0"):
                    found.append((environment.parent / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def assert_nothing_is_left(self) -> None:
        # A JVM takes a moment to see that its parent ended.
        wait_for(lambda: self.processes() == [], 60, "the end of every process")
        assert [path.name for path in self.temporary.iterdir() if path.is_dir()] == []


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path)


def test_the_demo_answers_real_shoppers_accounts_for_every_record_and_tidies_up(
    demo: Demo,
) -> None:
    code, out, err = demo.run("--json", "--seconds", "15")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["misfits"] == []
    assert result["consumed"] == accounted(result) > 3000
    planned = read_data(STARTER, 3000)
    assert {name: result[name] for name in OUTCOMES} == planned.expected
    assert sum(result["dead_letter_reasons"].values()) == len(malformed())
    assert result["duplicates"] > 0
    assert result["hit_rate"] >= 5 * result["hit_rate_popularity"] > 0
    assert result["judged"] > 1500
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["seconds_to_first_list"] > 0
    assert result["served_by"]["popular"] == result["other_shop_lists"]
    assert "they balance" in err
    demo.assert_nothing_is_left()


def test_a_demo_that_is_terminated_while_starting_leaves_nothing(demo: Demo) -> None:
    with demo.start() as process:
        assert process.stderr is not None
        for text in process.stderr:
            if "The broker answers" in text:
                break
        threading.Timer(2, process.send_signal, [signal.SIGTERM]).start()
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    demo.assert_nothing_is_left()


def test_a_loop_that_is_terminated_while_its_jobs_start_leaves_nothing(demo: Demo) -> None:
    with demo.start("--loop", "--json") as process:
        assert process.stderr is not None
        for text in process.stderr:
            if " acts: " in text:  # sessions and feedback run, recommend is about to
                break
        threading.Timer(3, process.send_signal, [signal.SIGTERM]).start()
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, "")
    demo.assert_nothing_is_left()


def test_a_job_that_refuses_to_start_is_told_with_its_reason(demo: Demo, tmp_path: Path) -> None:
    bundle = shutil.copytree(STARTER, tmp_path / "damaged")
    with (bundle / "index.faiss").open("r+b") as index:
        index.write(b"not an index")
    code, out, err = demo.run("--json", "--bundle", str(bundle))
    assert (code, out) == (1, "")
    assert "the recommend job ended" in err
    assert "index.faiss" in err
    demo.assert_nothing_is_left()


def test_a_missing_bundle_is_refused_before_anything_starts(demo: Demo, tmp_path: Path) -> None:
    code, _, err = demo.run("--bundle", str(tmp_path))
    assert code == 1
    assert "no bundle in" in err
    assert "python -m jobs train" in err
