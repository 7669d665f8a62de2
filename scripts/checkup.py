"""What is there, what is missing and how to mend it: ./scripts/doctor [--json]

Only the standard library is needed, so that a bare machine can be examined; rich draws the table
where it is installed. Nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

MEMORY_GB = 3.0  # the demo: broker 0.4, Flink 1.6, a Python worker a slot 0.3
DISK_GB = 2.5  # .venv 1.1, what is downloaded for it, the jars, the broker's folder
GOOD, NOTE, MISSING = "ok", "note", "missing"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `state` is ok, note (optional) or missing (a verb will fail)."""

    name: str
    state: str
    found: str
    mend: str = ""


def check_system() -> Finding:
    """Linux on a 64-bit processor, which the wheels are built for."""
    system, machine = platform.system(), platform.machine()
    known = system == "Linux" and machine in ("x86_64", "aarch64")
    mend = "" if known else "Use Linux on x86_64 or aarch64 (on other systems: in a container)."
    return Finding("system", GOOD if known else MISSING, f"{system} {machine}", mend)


def check_python() -> Finding:
    """A Python 3.10–3.12 that can make a virtual environment."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        mend = "Install Python 3.10, 3.11 or 3.12, or name it: SETUP_PYTHON=/path/to/python3.11"
        return Finding("python", MISSING, f"{version} ({sys.executable})", mend)
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        mend = f"Install its venv part (Debian: apt install python{version[:4]}-venv)."
        return Finding("python", MISSING, f"{version} without ensurepip", mend)
    return Finding("python", GOOD, f"{version} ({sys.executable})")


def check_git() -> Finding:
    """git, which only updating the checkout needs."""
    git = shutil.which("git")
    if git is None:
        return Finding("git", NOTE, "not on PATH", "Install git.")
    return Finding("git", GOOD, git)


def check_packages() -> Finding:
    """The venv, installed from the locks as they stand now."""
    from preparation import SETS, Preparation

    preparation = Preparation(ROOT)
    sets = [name for name in SETS if preparation.is_ready(name)]
    if sets:
        return Finding("packages", GOOD, f".venv holds: {', '.join(sets)}")
    found = ".venv is not as the locks say" if preparation.venv_works() else "no working .venv"
    return Finding("packages", MISSING, found, "Run ./scripts/setup serve")


def check_java() -> Finding:
    """Java 17 or 21."""
    from operators import java

    seen = java.candidates()
    usable = [one for one in seen if one.supported]
    if usable:
        chosen = usable[0]
        before = seen[: seen.index(chosen)]
        passed_over = "".join(f"; not {one.major} by {one.origin}" for one in before)
        found = f"{chosen.major} by {chosen.origin} ({chosen.home}){passed_over}"
        return Finding("java", GOOD, found)
    others = ", ".join(f"{one.major} by {one.origin}" for one in seen)
    mend = "Run ./scripts/setup serve, which installs one, or set JAVA_HOME to a Java 17 or 21."
    return Finding("java", MISSING, f"only Java {others}" if others else "none", mend)


def check_jars() -> Finding:
    """Every pinned jar, with its hash."""
    from operators import jars

    pinned = jars.pinned()
    absent = [jar.path.name for jar in pinned if not jar.path.is_file()]
    wrong = [jar.path.name for jar in pinned if jar.path.is_file() and not jar.is_whole()]
    if not absent and not wrong:
        return Finding("jars", GOOD, f"{len(pinned)} in {jars.cache()}, hashes as pinned")
    found = f"{len(absent)} of {len(pinned)} missing" if absent else ""
    found += f"{'; ' if absent and wrong else ''}wrong hash: {', '.join(wrong)}" if wrong else ""
    return Finding("jars", MISSING, found, "Run ./scripts/setup serve, which fetches them.")


def check_loopback() -> Finding:
    """That a program here can reach another on 127.0.0.1."""
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            socket.create_connection(server.getsockname(), timeout=2).close()
    except OSError as error:
        return Finding("loopback", MISSING, str(error), "Bring the loopback interface up.")
    return Finding("loopback", GOOD, "127.0.0.1 answers")


def check_port() -> Finding:
    """Whether the broker's usual port is free; the demo and the tests take free ones."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 9092))
        except OSError as error:
            mend = "If that is not your broker: ./scripts/broker start --port 9093"
            return Finding("port 9092", NOTE, error.strerror or str(error), mend)
    return Finding("port 9092", GOOD, "free")


def check_memory() -> Finding:
    """Memory that can be had now, within the limit of the container."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    free = fields["MemAvailable"] * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    found = f"{free / 1e9:.1f} GB available, {os.cpu_count()} processors"
    mend = "" if free >= MEMORY_GB * 1e9 else f"The demo needs about {MEMORY_GB:.0f} GB."
    return Finding("memory", GOOD if not mend else MISSING, found, mend)


def check_disk() -> Finding:
    """Space for the venv where the checkout is."""
    free = shutil.disk_usage(ROOT).free
    enough = free >= DISK_GB * 1e9 or (ROOT / ".venv" / ".streamrec").exists()
    mend = "" if enough else f"Set-up needs {DISK_GB} GB in {ROOT}."
    return Finding("disk", GOOD if enough else MISSING, f"{free / 1e9:.1f} GB free", mend)


def check_gpu() -> Finding:
    """An NVIDIA card; nothing needs one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("gpu", NOTE, "none seen; everything runs on the processor")
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20)
    return Finding("gpu", GOOD, listed.stdout.strip() or "nvidia-smi lists none")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_system,
    check_python,
    check_git,
    check_packages,
    check_java,
    check_jars,
    check_loopback,
    check_port,
    check_memory,
    check_disk,
    check_gpu,
)


def examine(check: Callable[[], Finding]) -> Finding:
    """The finding of one check; a check that fails is a finding too."""
    try:
        return check()
    except Exception as error:
        name = check.__name__.removeprefix("check_")
        return Finding(name, MISSING, f"could not be examined: {type(error).__name__}: {error}")


def show(findings: list[Finding]) -> None:
    """A table, drawn by rich where it is installed."""
    rows = [(one.name, one.state, one.found, one.mend) for one in findings]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for name, state, found, mend in rows:
            print(f"{state:8} {name:10} {found}" + (f"\n{'':20}→ {mend}" if mend else ""))
        return
    table = Table()
    for heading in ("what", "state", "found", "how to mend it"):
        table.add_column(heading, overflow="fold")
    colours = {GOOD: "green", NOTE: "yellow", MISSING: "bold red"}
    for name, state, found, mend in rows:
        table.add_row(name, f"[{colours[state]}]{state}[/]", found, mend)
    Console().print(table)


def main() -> int:
    """The command line; 0 if nothing that is needed is missing, else 1."""
    parser = argparse.ArgumentParser(prog="./scripts/doctor", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    as_json = parser.parse_args().json
    findings = [examine(check) for check in CHECKS]
    missing = [one for one in findings if one.state == MISSING]
    if as_json:
        print(json.dumps({"ready": not missing, "findings": [asdict(one) for one in findings]}))
    else:
        show(findings)
        verdict = f"{len(missing)} thing(s) missing." if missing else "Everything needed is there."
        print(verdict)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
