"""Loopback ports for programs that cannot be asked to bind port 0 and tell.

Invariants:
- A port handed out was free a moment ago on 127.0.0.1; only loopback is ever named.
- It is nobody else's while this process lives, even while its program is down between two starts: the system does not give it to an
  outgoing connection (it is below those), and no other test process is handed it (a lock on its byte in a file that all of them share).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

FIRST, END = 10_000, 32_768  # Linux takes the ports of outgoing connections from 32,768 up unless told otherwise
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_mine: set[int] = set()


def free_ports(count: int) -> list[int]:
    """`count` different free TCP ports of 127.0.0.1."""
    chance = random.SystemRandom()  # pytest seeds the other one, in every worker with the same
    range_start, range_end = _range()
    found: list[int] = []
    for _ in range(100_000):
        if len(found) == count:
            return found
        port = chance.randrange(range_start, range_end)
        if port not in _mine and _is_free(port) and _reserve(port):
            found.append(port)
    raise RuntimeError(f"no {count} free ports in [{range_start}, {range_end}) of 127.0.0.1")


def _range() -> tuple[int, int]:
    """Ports to choose from: those below the ones of outgoing connections, where there are enough."""
    with contextlib.suppress(OSError, ValueError):
        end = min(END, int(_EPHEMERAL.read_text().split()[0]))
        if end - FIRST >= 1000:
            return FIRST, end
    return FIRST, END


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reserve(port: int) -> bool:
    """Lock the port's byte until this process ends. False: another process has it."""
    try:
        fcntl.lockf(_lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _mine.add(port)
    return True


@functools.cache
def _lock_file() -> IO[bytes]:
    """Never closed: closing any handle of it would let go of all its locks."""
    return open(Path(tempfile.gettempdir()) / f"hotlog-test-ports-{os.getuid()}", "ab")
