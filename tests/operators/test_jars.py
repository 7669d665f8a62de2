import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from operators import jars
from operators.jars import Jar, JarError

BYTES = b"the bytes of a jar" * 1000
COORDINATE = "org.example:thing:1.0"
PINNED = Jar("connector", COORDINATE, hashlib.sha256(BYTES).hexdigest())


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository with one jar, and an empty cache; yields the jar's file."""
    file = tmp_path / "maven" / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"
    file.parent.mkdir(parents=True)
    file.write_bytes(BYTES)
    handler = partial(QuietHandler, directory=str(tmp_path / "maven"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("SETUP_MAVEN_REPOSITORY", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jars.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(jars, "pinned", lambda: [PINNED])
    yield file
    server.shutdown()
    server.server_close()


def kept() -> list[str]:
    return [path.name for path in jars.cache().iterdir() if path.name != ".lock"]


def test_a_jar_is_fetched_once_and_then_reused(served: Path) -> None:
    (fetched,) = jars.provide("connector")
    assert fetched.read_bytes() == BYTES
    served.unlink()
    assert jars.provide("connector") == [fetched]
    assert kept() == ["thing-1.0.jar"]


def test_a_jar_with_a_wrong_hash_is_refused_and_not_kept(served: Path) -> None:
    served.write_bytes(BYTES[:-1])
    with pytest.raises(JarError, match=r"refused org.example:thing:1.0: expected SHA-256 "):
        jars.provide("connector")
    assert kept() == []


def test_a_damaged_jar_of_the_cache_is_fetched_again(served: Path) -> None:
    (fetched,) = jars.provide("connector")
    fetched.write_bytes(BYTES + b"!")
    jars.provide("connector")
    assert fetched.read_bytes() == BYTES


def test_what_a_killed_download_left_is_removed(served: Path) -> None:
    leftover = jars.cache() / ".partial-abc"
    leftover.mkdir(parents=True)
    jars.provide("connector")
    assert not leftover.exists()


def test_a_jar_that_cannot_be_fetched_is_named_with_what_to_do(served: Path) -> None:
    shutil.rmtree(served.parent)
    with pytest.raises(JarError, match=r"could not fetch org.example:thing:1.0 .*HTTPS_PROXY"):
        jars.provide("connector")


def test_a_line_that_is_not_a_pinned_jar_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "jars.txt"
    lock.write_text("# comment\nbroker org.example:thing:1.0\n")
    with pytest.raises(JarError, match=r"expected `group a:b:version sha256:…`; got `broker org"):
        jars.pinned(lock)


def test_the_lock_pins_the_connector_and_the_broker() -> None:
    pinned = jars.pinned()
    assert [jar.coordinate for jar in pinned if jar.group == "connector"] == [
        "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2"
    ]
    assert any(jar.coordinate == "org.apache.kafka:kafka_2.13:4.2.0" for jar in pinned)
    assert all(len(jar.sha256) == 64 for jar in pinned)
    assert len({jar.path for jar in pinned}) == len(pinned)
