"""Keep a child process: no longer than its parent, and if asked for no shorter either.

    python tether.py [--remove FOLDER] [--again] [--outlive] [--fatal FOLDER TEXT] -- COMMAND…

The parent holds the other end of this program's standard input. When that closes (the parent
closed it, ended, or was killed with SIGKILL) the command is stopped and FOLDER removed; with
--outlive only SIGTERM to this program stops it. With --again a command that ends by itself is
started anew, unless it ended well or `STARTS` starts within `WITHIN_SECONDS` were in vain. With
--fatal it is ended, as if by itself, once a *.log in FOLDER tells TEXT. Only the standard library
is used. Prints the command's first process id, and ends with its exit code.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 10.0
STARTS, WITHIN_SECONDS = 3, 120.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def command(
    program: list[str],
    remove: str | None = None,
    again: bool = False,
    outlive: bool = False,
    fatal: tuple[str, str] | None = None,
) -> list[str]:
    """The command line that runs `program` on a tether.

    Give it a pipe as standard input, unless it is to outlive its parent.
    """
    options = ["--remove", remove] if remove else []
    options += [flag for flag, given in (("--again", again), ("--outlive", outlive)) if given]
    options += ["--fatal", *fatal] if fatal else []
    return [sys.executable, "-I", __file__, *options, "--", *program]


def main(arguments: list[str]) -> int:
    """Run a command until it ends for good, the parent does, or SIGTERM comes."""
    split = arguments.index("--")
    options, program = _options(arguments[:split]), arguments[split + 1 :]
    signal.signal(signal.SIGTERM, _let_go)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    child = _start(program)
    starts = deque([time.monotonic()], maxlen=STARTS)
    print(child.pid, flush=True)
    sys.stdout.close()
    try:
        while _ended_by_itself(child, options):
            in_vain = len(starts) == STARTS and time.monotonic() - starts[0] < WITHIN_SECONDS
            if child.returncode == 0 or not options.again or in_vain:
                return child.returncode
            child = _start(program)
            starts.append(time.monotonic())
    except SystemExit:
        pass
    _stop(child)
    if options.remove:
        shutil.rmtree(options.remove, ignore_errors=True)
    return child.returncode


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tether.py", usage=__doc__)
    parser.add_argument("--remove")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--outlive", action="store_true")
    parser.add_argument("--fatal", nargs=2, metavar=("FOLDER", "TEXT"))
    return parser.parse_args(words)


def _start(program: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(program, stdin=subprocess.DEVNULL, preexec_fn=_die_with_this_process)


def _ended_by_itself(child: subprocess.Popen[bytes], options: argparse.Namespace) -> bool:
    """Wait for the child's end, and see to it if it is due; False if the parent ended before."""
    watched = [] if options.outlive else [0]
    logs = _Logs(*options.fatal) if options.fatal else None
    while child.poll() is None:
        if select.select(watched, [], [], 0.2)[0] and not os.read(0, 4096):
            return False
        if logs is not None and logs.tell():
            _stop(child)
    return True


class _Logs:
    """The logs of a folder, of which only what is written from now on counts."""

    def __init__(self, folder: str, text: str) -> None:
        self._folder, self._text = Path(folder), text.encode()
        self._read: dict[Path, int] = {}
        self.tell()

    def tell(self) -> bool:
        """Whether the text stands in what one of them has gained since the last call."""
        gained = [self._gained(log) for log in self._folder.glob("*.log")]  # each has to be read
        return any(gained)

    def _gained(self, log: Path) -> bool:
        with suppress(FileNotFoundError), log.open("rb") as file:  # a full one is renamed
            begun_anew = os.fstat(file.fileno()).st_size < self._read.get(log, 0)
            start = 0 if begun_anew else self._read.get(log, 0)
            file.seek(max(0, start - len(self._text) + 1))  # the text may come in two pieces
            gained = file.read()
            self._read[log] = file.tell()
            return self._text in gained
        return False


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
