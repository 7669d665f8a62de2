"""A free port stays free until the server it is for has started."""

from __future__ import annotations

import socket
from pathlib import Path

from operators.ports import HOST, free_port


def test_a_free_port_is_none_that_an_outgoing_connection_gets() -> None:
    with socket.create_server((HOST, 0)) as server:
        first = server.getsockname()[1]
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii")
    least = int(limits.split()[0])
    assert first >= least > 20_000
    ports = {free_port() for _ in range(50)}
    assert all(20_000 <= port < least for port in ports)
    assert len(ports) > 40
