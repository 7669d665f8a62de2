"""Make .venv from the locks and fetch the pinned jars: ./scripts/setup [serve|train|dev].

    find-python → .venv → uv → packages of a lock → this project → jars

Each step leaves a stamp when it is done, naming what it was done from: a finished step is not
repeated, an interrupted one is. Only the standard library is used, because nothing else is there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = ("serve", "train", "dev")  # each holds the one before it
_PYTHON_ONLY = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")


class SetUpError(Exception):
    """A step failed; the message says what is missing and what to do."""


class Preparation:
    """The set-up of one checkout: `prepare("serve")` makes it ready, or says why it cannot."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.locks = root / "scripts" / "locks"
        self._stamps = self.venv / ".streamrec"
        self._half_made = root / ".venv.unfinished"
        self._held: tuple[int, ...] = ()  # the lock's file descriptor while it is held

    def prepare(self, wanted: str) -> None:
        """Bring the venv and the jars to a requirement set; quick and silent if they are there."""
        if not self.is_ready(wanted):
            with self._only_one_process():
                self.make_venv()
                self.install_uv()
                self.install_packages(wanted)
                self.install_project()
                if not self.has_packages(SETS[1]):
                    self.remove_uv()
        self.fetch_jars()

    def is_ready(self, wanted: str) -> bool:
        """Whether nothing has to be installed for a requirement set."""
        return (
            self.venv_works()
            and self.has_packages(wanted)
            and self._is_done("project", self._project_source())
        )

    def has_packages(self, wanted: str) -> bool:
        """Whether the lock of the set, or of a larger one, is installed as it stands now."""
        enough = SETS[SETS.index(wanted) :]
        return any(self._is_done(name, self._lock_source(name)) for name in enough)

    def venv_works(self) -> bool:
        """Whether .venv is whole, made in this folder, and its Python (3.10–3.12) is there."""
        if self._half_made.exists() or not self.python.exists():
            return False
        if self._is_done("venv", str(self.venv)):
            return True
        check = "import sys, pip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))"
        return subprocess.run([self.python, "-c", check], capture_output=True).returncode == 0

    def make_venv(self) -> None:
        """A fresh .venv, unless there is a working one."""
        if self.venv_works():
            self._done("venv", str(self.venv))
            return
        version = ".".join(map(str, sys.version_info[:3]))
        with _step(f"making .venv with Python {version}"):
            _refuse_python_without_venv()
            self._half_made.touch()
            shutil.rmtree(self.venv, ignore_errors=True)
            self._run([sys.executable, "-m", "venv", str(self.venv)], "make .venv")
            self._done("venv", str(self.venv))
            self._half_made.unlink()

    def install_uv(self) -> None:
        """uv and the build back end, by pip, from their own small lock."""
        if self._is_done("uv", self._uv_source()):
            return
        lock = self.locks / "uv.txt"
        with _step("installing uv"):
            options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
            options += ["--force-reinstall"] * self._was_interrupted("uv")
            self._begun("uv")
            self._run([self.python, "-m", "pip", "install", *options, "-r", lock], "fetch uv")
            self._done("uv", self._uv_source())

    def remove_uv(self) -> None:
        """It has done its work: 38 MB less for whoever only serves."""
        (self._stamps / "uv").unlink(missing_ok=True)
        options = ["--quiet", "--yes", "--disable-pip-version-check"]
        self._run([self.python, "-m", "pip", "uninstall", *options, "uv"], "remove uv")

    def install_packages(self, wanted: str) -> None:
        """The packages of a lock, every one checked against its hash."""
        if self.has_packages(wanted):
            return
        lock = self.locks / f"{wanted}.txt"
        with _step(f"installing the packages of scripts/locks/{wanted}.txt"):
            # An interrupted installation may have left packages that look whole but are not.
            broken = any(self._was_interrupted(name) for name in SETS)
            options = ["--require-hashes", "--no-deps", "--no-build-isolation"]  # all are there
            options += ["--reinstall"] * broken + ["--quiet"] * (not sys.stderr.isatty())
            self._begun(wanted)
            self._uv(["install", *options, "-r", lock], "fetch the packages")
            for name in SETS:
                (self._stamps / f"{name}.begun").unlink(missing_ok=True)
            self._done(wanted, self._lock_source(wanted))

    def install_project(self) -> None:
        """The four packages of this checkout, on the venv's path."""
        if self._is_done("project", self._project_source()):
            return
        with _step("putting this checkout on the path of .venv"):
            options = ["--quiet", "--no-deps", "--no-build-isolation"]
            self._uv(["install", *options, "-e", self.root], "install this checkout")
            self._done("project", self._project_source())

    def fetch_jars(self) -> None:
        """The pinned jars; the message of a failure comes from operators/jars.py."""
        sys.path.insert(0, str(self.root))
        from operators import jars

        if all(jar.is_whole() for jar in jars.pinned()):
            return
        fetch = "from operators import jars\n"
        fetch += "try:\n    [jars.provide(group) for group in jars.GROUPS]\n"
        fetch += "except jars.JarError as error:\n    raise SystemExit(f'streamrec: {error}')"
        if subprocess.run([self.python, "-c", fetch], env=_environment()).returncode != 0:
            raise SetUpError("set-up stopped: the jars are not complete.")

    def _uv(self, arguments: Sequence[str | Path], purpose: str) -> None:
        command = [self.python, "-m", "uv", "pip", *arguments, "--python", self.python]
        settings = {name: value for name, value in self._uv_settings().items() if value}
        # uv leaves a lock there for each package that it builds.
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=self.venv) as temporary:
            own = {**settings, **_environment(), "TMPDIR": temporary}
            self._run(command, purpose, own)

    def _uv_settings(self) -> dict[str, str]:
        """What pip is configured to use, told to uv, which does not read pip's configuration."""
        listed = subprocess.run(
            [self.python, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            env=_environment(),
        )
        return uv_settings(listed.stdout)

    def _run(
        self, command: Sequence[str | Path], purpose: str, environment: dict[str, str] | None = None
    ) -> None:
        words = [str(word) for word in command]
        # The child holds the lock too: if only this process is killed, the next one waits for it.
        done = subprocess.run(
            words,
            env=environment or _environment(),
            stdout=subprocess.DEVNULL,
            pass_fds=self._held,
        )
        if done.returncode != 0:
            raise SetUpError(
                f"could not {purpose} (the reason stands above). If the package index could not "
                "be reached: connect this machine to the network, set HTTPS_PROXY, or point pip "
                "at a mirror (PIP_INDEX_URL or pip.conf; a certificate: PIP_CERT). Packages that "
                "were fetched once stay in uv's cache. Then run the same command again; what is "
                "done is not repeated."
            )

    def _lock_source(self, name: str) -> str:
        return _digest(self.locks / f"{name}.txt")

    def _uv_source(self) -> str:
        return _digest(self.locks / "uv.txt")

    def _project_source(self) -> str:
        return _digest(self.root / "setup.py", self.root / "pyproject.toml")

    def _is_done(self, step: str, source: str) -> bool:
        stamp = self._stamps / step
        return stamp.is_file() and stamp.read_text() == source

    def _was_interrupted(self, step: str) -> bool:
        return (self._stamps / f"{step}.begun").exists()

    def _begun(self, step: str) -> None:
        self._stamps.mkdir(exist_ok=True)
        (self._stamps / f"{step}.begun").touch()

    def _done(self, step: str, source: str) -> None:
        self._stamps.mkdir(exist_ok=True)
        written = self._stamps / f"{step}.new"
        written.write_text(source)
        os.replace(written, self._stamps / step)
        (self._stamps / f"{step}.begun").unlink(missing_ok=True)

    @contextmanager
    def _only_one_process(self) -> Iterator[None]:
        with (self.root / ".venv.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say("waiting for another set-up of this checkout to end …")
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._held = (lock.fileno(),)
            yield
            self._held = ()


def uv_settings(pip_config: str) -> dict[str, str]:
    """uv's environment variables for the output of `pip config list`; later sections win."""
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "no-index": "UV_NO_INDEX",
        "cert": "SSL_CERT_FILE",
        "timeout": "UV_HTTP_TIMEOUT",
        "default-timeout": "UV_HTTP_TIMEOUT",
        "trusted-host": "UV_INSECURE_HOST",
    }
    commas = ("UV_FIND_LINKS",)
    settings = {}
    order = {"global": 0, "install": 1, ":env:": 2}
    lines = [line.partition("=") for line in pip_config.splitlines()]
    for key, _, value in sorted(lines, key=lambda line: order.get(line[0].rpartition(".")[0], 0)):
        name = names.get(key.rpartition(".")[2])
        if name:
            words = value.strip("'\"").replace("\\n", " ").split()
            settings[name] = ("," if name in commas else " ").join(words)
    return settings


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _PYTHON_ONLY}


def _refuse_python_without_venv() -> None:
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        short = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetUpError(
            f"{sys.executable} cannot make a virtual environment (no module {error.name}). "
            f"Install the missing part (Debian or Ubuntu: apt install {short}-venv), or name "
            "another Python: SETUP_PYTHON=/path/to/python3.11"
        ) from error


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _step(sentence: str) -> Iterator[None]:
    started = time.monotonic()
    _say(f"{sentence} …")
    yield
    _say(f"{sentence}: done in {time.monotonic() - started:.0f} s")


def _say(sentence: str) -> None:
    print(f"streamrec: {sentence}", file=sys.stderr, flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./scripts/setup", description=__doc__.split("\n")[0])
    parser.add_argument("set", nargs="?", default="serve", choices=SETS)
    try:
        Preparation().prepare(parser.parse_args().set)
    except SetUpError as error:
        print(f"streamrec: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("streamrec: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
