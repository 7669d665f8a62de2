"""Keep a child process no longer than its parent, however the parent ends.

    python tether.py [--remove FOLDER] -- COMMAND…

The parent holds the other end of this program's standard input. When that closes (the parent
closed it, ended, or was killed with SIGKILL) the command is stopped and FOLDER removed. Only the
standard library is used. Prints the command's process id, and ends with its exit code.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from types import FrameType

GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def command(program: list[str], remove: str | None = None) -> list[str]:
    """The command line that runs `program` on a tether; give it a pipe as standard input."""
    folder = ["--remove", remove] if remove else []
    return [sys.executable, "-I", __file__, *folder, "--", *program]


def main(arguments: list[str]) -> int:
    """Run a command until it ends or the parent does."""
    split = arguments.index("--")
    folder = arguments[split - 1] if arguments[:split] else None
    signal.signal(signal.SIGTERM, _let_go)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    child = subprocess.Popen(
        arguments[split + 1 :], stdin=subprocess.DEVNULL, preexec_fn=_die_with_this_process
    )
    print(child.pid, flush=True)
    sys.stdout.close()
    try:
        if _ended_before_parent(child):
            return child.returncode
    except SystemExit:
        pass
    _stop(child)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return child.returncode


def _ended_before_parent(child: subprocess.Popen[bytes]) -> bool:
    while child.poll() is None:
        if select.select([0], [], [], 0.2)[0] and not os.read(0, 4096):
            return False
    return True


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _die_with_this_process() -> None:
    # The kernel kills the command even if this program is itself killed with SIGKILL.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _let_go(signum: int, frame: FrameType | None) -> None:
    raise SystemExit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
