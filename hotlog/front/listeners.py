"""Every address that this node listens on: whoever comes becomes a connection that knows by which listener it came.

Invariants: what connections may be and may hold is decided by `Connections`, over all listeners; nobody is accepted once `close` began;
a start that fails leaves nothing open.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hotlog.front.connection import Connection
from hotlog.front.connections import Connections
from hotlog.kernel.addresses import Endpoint
from hotlog.world.ports import Listening, Network


class Listeners:
    """The listeners of a node, in the order in which they were given."""

    def __init__(self, connections: Connections, network: Network) -> None:
        self.connections = connections
        self._network = network
        self._open: list[Listening] = []

    async def listen(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """Listen on all of them; port 0 chooses one.  Returns them as they are in use.

        Raises:
            OSError: an address cannot be bound; none is listened on.
        """
        bound = []
        try:
            for name, host, port in endpoints:
                listening = await self._network.listen(partial(self._connect, name), host, port)
                self._open.append(listening)
                bound.append(Endpoint(name, *listening.address))
        except BaseException:
            for listening in self._open:
                listening.close()
            self._open.clear()
            raise
        self.connections.start_ticking()
        return bound

    async def close(self) -> None:
        """Stop accepting, then let every connection finish and close it."""
        for listening in self._open:
            listening.close()
        await self.connections.close()
        for listening in self._open:
            await listening.wait_closed()
        self._open.clear()

    def _connect(self, name: str) -> Connection:
        return Connection(self.connections, self.connections.next_number(), name)
