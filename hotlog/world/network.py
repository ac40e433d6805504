"""The real network: TCP as the event loop does it (asyncio's, or uvloop's).

Invariants: nothing stands between a transport and its protocol: bytes are received straight into what a BufferedProtocol gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from hotlog.world.ports import LISTEN_BACKLOG

P = TypeVar("P", bound=asyncio.BaseProtocol)


class TcpListening:
    """One listening socket, or several where a name has several addresses."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self._address = server.sockets[0].getsockname()

    @property
    def address(self) -> tuple[str, int]:
        return str(self._address[0]), int(self._address[1])

    def close(self) -> None:
        self._server.close()

    async def wait_closed(self) -> None:
        await self._server.wait_closed()


class TcpNetwork:
    """Network over the running loop's sockets."""

    async def listen(
        self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int, *, backlog: int = LISTEN_BACKLOG
    ) -> TcpListening:
        loop = asyncio.get_running_loop()
        return TcpListening(await loop.create_server(make, host, port, backlog=backlog, reuse_address=True))

    async def connect(self, make: Callable[[], P], host: str, port: int) -> P:
        _, protocol = await asyncio.get_running_loop().create_connection(make, host, port)
        return protocol
