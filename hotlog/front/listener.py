"""Listens on a TCP address and makes a connection of whoever comes.

Invariants: what connections may be and may hold is decided by `Connections`, over all listeners; nobody is accepted once `close` began.
"""

from __future__ import annotations

import asyncio

from hotlog.front.connection import Connection
from hotlog.front.connections import Connections

ACCEPT_BACKLOG = 4096


class Listener:
    """One address; `name` is what it is called in `listeners`."""

    def __init__(self, connections: Connections, name: str = "PLAINTEXT") -> None:
        self.connections = connections
        self.name = name
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; port 0 chooses one.  Returns the address in use.

        Raises:
            OSError: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, host, port, backlog=ACCEPT_BACKLOG, reuse_address=True)
        self.connections.start()
        address = self._server.sockets[0].getsockname()
        return str(address[0]), int(address[1])

    async def close(self) -> None:
        """Stop accepting, then let every connection finish and close it."""
        if self._server is not None:
            self._server.close()
        await self.connections.close()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _connect(self) -> Connection:
        return Connection(self.connections, self.connections.next_number(), self.name)
