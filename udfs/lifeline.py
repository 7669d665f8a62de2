"""A worker process ends when the TaskManager that started it lets go of it."""

from __future__ import annotations

import os
import stat
import threading
import time
from contextlib import suppress
from functools import cache

GRACE_S = 10.0  # in which a worker ends by itself, if it can


@cache
def hold() -> None:
    """End this process GRACE_S after its standard input closes, if that is a pipe.

    The other end is the TaskManager's: it closes when that ends, however, or stops the worker.
    Workers then end by themselves, but for a deadlock of PyFlink 2.3: the main thread holds the
    lock of Beam's log handler and waits for the handler's reader, which waits for the lock, since
    PyFlink makes a log line of what it prints. Such a worker would keep its memory for ever.
    """
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_end_with_input, name="lifeline", daemon=True).start()


def _end_with_input() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    time.sleep(GRACE_S)
    os._exit(1)
