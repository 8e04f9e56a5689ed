"""Ports to which no connection can be made."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def closed_port() -> Iterator[str]:
    """The URL of a bound port that refuses every connection."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def full_port() -> Iterator[str]:
    """The URL of a port whose queue is full: a client that connects to it waits."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(sock.getsockname())
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            for each in waiting:
                each.close()
