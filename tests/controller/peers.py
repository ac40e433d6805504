"""The port between nodes, in one process: changes go as bytes to `Metadata.serve` of the other node, unless something is wrong."""

from __future__ import annotations

import asyncio

from controller.metadata import Metadata
from controller.peers import Liveness
from hotlog.kernel.errors import OutcomeUnknown, Retry
from tests.sim.fuse import Crashed


class Switchboard:
    """All nodes of a cluster.  `cut`: nobody reaches anybody or can tell; `lost_answers`: of the next changes."""

    def __init__(self) -> None:
        self.nodes: dict[int, Metadata | None] = {}  # None: known to be gone
        self.cut = False
        self.lost_answers = 0
        self.sent: list[tuple[int, bytes]] = []

    async def liveness(self, node_id: int) -> Liveness:
        await asyncio.sleep(0.001)
        if self.cut or node_id not in self.nodes:
            return Liveness.UNKNOWN
        return Liveness.GONE if self.nodes[node_id] is None else Liveness.ALIVE

    async def submit(self, node_id: int, change: bytes) -> bytes:
        await asyncio.sleep(0.001)
        node = None if self.cut else self.nodes.get(node_id)
        if node is None:
            raise Retry(f"node {node_id} is not reached")
        self.sent.append((node_id, change))
        try:
            answer = await node.serve(change)
        except Crashed:
            self.nodes[node_id] = None
            raise OutcomeUnknown(f"node {node_id} died before it answered") from None
        await asyncio.sleep(0.001)
        if self.lost_answers:
            self.lost_answers -= 1
            raise OutcomeUnknown("the answer was lost")
        return answer
