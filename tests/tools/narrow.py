"""Sockets whose kernel buffers are small on every machine: what a kernel takes off a sender's hands differs by a factor of a hundred.

Invariants: set before the connection is made, since a window that was offered is not taken back; an accepted socket has its listener's.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Any

BUFFER_BYTES = 32 * 1024  # asked for; Linux takes twice as much
TAKEN_BYTES_MAX = 1024 * 1024  # by both ends together, with room for what any kernel makes of it


def narrow(sockets: Iterable[Any]) -> None:
    """Small buffers for these (of listeners: for what they will accept)."""
    for each in sockets:
        with socket.socket(fileno=os.dup(each.fileno())) as own:  # uvloop's have no setsockopt
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


async def open_narrow(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """asyncio.open_connection with small buffers."""
    made = socket.socket()
    made.setblocking(False)
    narrow([made])
    await asyncio.get_running_loop().sock_connect(made, (host, port))
    return await asyncio.open_connection(sock=made)
