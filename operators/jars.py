"""The pinned jars: Flink's Kafka connector, the broker, the operator; fetched once and verified.

Coordinates and SHA-256 stand in jars.txt beside this module. A jar is downloaded with jgo, a
Maven client in pure Python, hashed, and only then moved into the cache: what lies there is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK_FILE = Path(__file__).with_name("jars.txt")
GROUPS = CONNECTOR, BROKER, OPERATOR = "connector", "broker", "operator"
_ATTEMPTS = 3
_AT_ONCE = 8
_CERTIFICATES = (  # where Debian, Fedora and SUSE keep them
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)


class JarError(RuntimeError):
    """A jar could not be fetched, or is not the one that was pinned."""


@dataclass(frozen=True)
class Jar:
    """One line of jars.txt: what it is for, its Maven coordinate and its SHA-256."""

    group: str
    coordinate: str  # group:artifact:version
    sha256: str

    @property
    def path(self) -> Path:
        """Where the verified jar lies in the cache."""
        _, artifact, version = self.coordinate.split(":")
        return cache() / f"{artifact}-{version}.jar"

    def is_whole(self) -> bool:
        """Whether the cache holds exactly the pinned bytes."""
        return self.path.is_file() and sha256(self.path) == self.sha256


def cache() -> Path:
    """${XDG_CACHE_HOME:-~/.cache}/streamrec/jars"""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamrec" / "jars"


def connector_jar() -> Path:
    """The Flink SQL connector for Kafka, fetched if it is not in the cache."""
    return provide(CONNECTOR)[0]


def broker_jars() -> list[Path]:
    """The class path of the Kafka broker, fetched if it is not in the cache."""
    return provide(BROKER)


def operator_jar() -> Path:
    """The interface of Flink's Kubernetes operator, with the schema of what it takes."""
    return provide(OPERATOR)[0]


def provide(group: str) -> list[Path]:
    """The paths of all jars of a group, in the order of jars.txt; missing ones are fetched."""
    jars = [jar for jar in pinned() if jar.group == group]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        whole = list(pool.map(Jar.is_whole, jars))
    if not all(whole):
        with _only_one_process():
            fetch([jar for jar in jars if not jar.is_whole()])
    return [jar.path for jar in jars]


def pinned(lock_file: Path = LOCK_FILE) -> list[Jar]:
    """Every jar of the lock file; raises JarError on a line that is not one."""
    lines = (line.partition("#")[0].split() for line in lock_file.read_text().splitlines())
    return [_parse(words, lock_file) for words in lines if words]


def _parse(words: list[str], lock_file: Path) -> Jar:
    if len(words) != 3 or words[1].count(":") != 2 or not words[2].startswith("sha256:"):
        line = " ".join(words)
        raise JarError(f"{lock_file}: expected `group a:b:version sha256:…`; got `{line}`")
    return Jar(words[0], words[1], words[2].removeprefix("sha256:"))


def fetch(jars: Sequence[Jar]) -> None:
    """Download jars into the cache, each verified before it is moved in place."""
    if not jars:
        return
    started = time.monotonic()
    groups = " and ".join(sorted({jar.group for jar in jars}))
    _say(f"fetching {len(jars)} jar(s) of the {groups} into {cache()} …")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = [pool.submit(_fetch_one, jar) for jar in jars]
        failures = [error for task in tasks if (error := task.exception())]
    if failures:
        raise failures[0]
    megabytes = sum(jar.path.stat().st_size for jar in jars) / 1e6
    _say(f"fetched {megabytes:.0f} MB of jars in {time.monotonic() - started:.0f} s")


def _fetch_one(jar: Jar) -> None:
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache()) as folder:
        downloaded = download(jar.coordinate, Path(folder))
        verify(jar, downloaded)
        os.replace(downloaded, jar.path)


def verify(jar: Jar, downloaded: Path) -> None:
    """Refuse a file that is not the pinned one."""
    actual = sha256(downloaded)
    if actual != jar.sha256:
        raise JarError(
            f"refused {jar.coordinate}: expected SHA-256 {jar.sha256}, got {actual}. "
            "The download is damaged or is not the pinned file; nothing was kept. "
            "Try again, or check the mirror or proxy in use."
        )


def download(coordinate: str, folder: Path) -> Path:
    """The jar of a coordinate, unverified, in a folder laid out as a Maven repository."""
    from requests import RequestException

    for attempt in range(1, _ATTEMPTS + 1):
        target = Path(tempfile.mkdtemp(dir=folder))  # jgo refuses to write over half a file
        try:
            return maven(target).create_dependency(coordinate).artifact.resolve()
        except (RequestException, RuntimeError, OSError) as error:
            shutil.rmtree(target, ignore_errors=True)
            if attempt == _ATTEMPTS:
                raise JarError(_unreachable(coordinate, error)) from error
            time.sleep(attempt)
    raise AssertionError("unreachable")


def maven(repository: Path) -> Any:
    """A jgo context that stores under `repository` and reads from the user's Maven mirrors.

    Mirrors: SETUP_MAVEN_REPOSITORY (one address), else [repositories] of jgo's own
    configuration file, else Maven Central.
    """
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    _trust_what_the_machine_trusts()
    mirror = os.environ.get("SETUP_MAVEN_REPOSITORY")
    remotes = {"mirror": mirror} if mirror else GlobalSettings.load().repositories
    return MavenContext(repo_cache=repository, remote_repos=remotes or None, timeout=60)


def _trust_what_the_machine_trusts() -> None:
    """Point requests, which brings its own certificates, at those of this machine if there are."""
    named = [os.environ.get("PIP_CERT"), ssl.get_default_verify_paths().cafile, *_CERTIFICATES]
    found = [path for path in named if path and Path(path).is_file()]
    if found and "CURL_CA_BUNDLE" not in os.environ:
        os.environ.setdefault("REQUESTS_CA_BUNDLE", found[0])


def _unreachable(coordinate: str, error: Exception) -> str:
    # requests wraps the cause in layers of addresses; the last layer is what a reader can use.
    reason = (str(error) or type(error).__name__).split("(Caused by ")[-1].strip("()")[:200]
    return (
        f"could not fetch {coordinate} from the Maven repository ({reason}). "
        f"It is needed once and then kept in {cache()}. Connect this machine to the network, set "
        "HTTPS_PROXY, set SETUP_MAVEN_REPOSITORY to a mirror, or copy that folder from a "
        "machine that has it; then run the same command again."
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _only_one_process() -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache().glob(".partial-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _say(sentence: str) -> None:
    print(f"streamrec: {sentence}", file=sys.stderr, flush=True)
