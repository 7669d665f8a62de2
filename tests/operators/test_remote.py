"""What is asked of a Flink cluster, and where the state of its jobs is found."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from operators import remote
from operators.remote import (
    RemoteError,
    newest_checkpoint,
    newest_savepoint,
    require_slots,
)
from operators.rest import Rest

JOB = "0123456789abcdef" * 2


def made(folder: Path, *names: str) -> None:
    for second, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        os.utime(folder / name, (second, second))


def test_the_newest_whole_checkpoint_of_a_job_is_found(tmp_path: Path) -> None:
    other = "f" * 32
    numbers = ("chk-10/_metadata", "chk-9/_metadata", "chk-11/part")
    made(tmp_path, *(f"{JOB}/{name}" for name in numbers), f"{other}/chk-12/_metadata")
    found = newest_checkpoint(tmp_path.as_uri(), JOB)
    assert found == (tmp_path / JOB / "chk-10").as_uri()
    assert newest_checkpoint(tmp_path.as_uri(), "0" * 32) is None


def test_the_newest_whole_savepoint_of_a_job_is_found(tmp_path: Path) -> None:
    of_it = ("b/_metadata", "a/_metadata", "c/part")
    made(tmp_path, *(f"savepoint-012345-{name}" for name in of_it), "savepoint-abcdef-d/_metadata")
    found = newest_savepoint(tmp_path.as_uri(), JOB)
    assert found == (tmp_path / "savepoint-012345-a").as_uri()
    assert newest_savepoint(tmp_path.as_uri(), "0" * 32) is None


class Answers(BaseHTTPRequestHandler):
    """A REST whose leader is elected after some requests, and which knows one address."""

    without_leader = 2

    def do_GET(self) -> None:
        if Answers.without_leader > 0:
            Answers.without_leader -= 1
            self._answer(503, b'{"errors": ["Service temporarily unavailable"]}')
        elif self.path == "/overview":
            self._answer(200, b'{"slots-available": 2}')
        else:
            self._answer(404, b'{"errors": ["no such job"]}')

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    """The REST of Answers, where no leader is elected yet."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Answers, "without_leader", 2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Rest(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_moment_without_a_leader_ends_no_command(rest: Rest) -> None:
    require_slots(rest, 2)
    assert Answers.without_leader == 0


def test_too_few_slots_are_told_with_what_there_is(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REGISTER_SECONDS", 0.1)
    monkeypatch.setattr(Answers, "without_leader", 0)
    with pytest.raises(RemoteError, match=f"expected 3 free slots on {rest}; there are 2"):
        require_slots(rest, 3)


def test_what_flink_refuses_is_told_at_once(rest: Rest) -> None:
    with pytest.raises(RemoteError, match=f"{rest}/jobs/{JOB}: no such job"):
        remote.wait_until_up(rest, JOB)
