"""Ports of the loopback address for servers that are about to start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
_LEAST = 20_000  # below are the ports that services are known by
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection will take.

    A server takes seconds to start. Until then any connection may get a port of the kernel's own
    range as its source, so this one lies below it, if there is room.
    """
    draw = random.SystemRandom()  # also different in processes that were forked
    below = int(_EPHEMERAL.read_text("ascii").split()[0]) if _EPHEMERAL.exists() else 0
    for _ in range(100 if below > _LEAST else 0):
        port = draw.randrange(_LEAST, below)
        if not why_taken(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def why_taken(port: int) -> str:
    """Why nobody may listen on this port now; "" if somebody may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whoever listened may be gone
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return str(error.strerror)
    return ""
