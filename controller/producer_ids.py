"""Producer ids of one node, in blocks that the metadata log hands out, none of them twice.

A block is in use, and one is in reserve: in a file of the local copy, so that a node that starts while the store is away has ids to give to
new producers.  Only ids that the file no longer has are given out, so a kill wastes some and repeats none.

Invariants: an id is given out at most once, over lives and nodes; the reserve is of this node and nobody has had an id of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from controller.mirror import Mirror

OFFLINE_PIECE = 250  # taken from the reserve at a time, so that it lasts for some lives without the store


class ProducerIds:
    """`new_block` commits a block to the metadata log; it raises as Metadata.submit."""

    def __init__(self, mirror: Mirror, new_block: Callable[[], Awaitable[range]]) -> None:
        self._mirror = mirror
        self._new_block = new_block
        self._block = range(0)
        self._reserve = range(0)
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Read the reserve that an earlier life left."""
        self._reserve = await self._mirror.producer_ids()

    def use(self, block: range) -> None:
        """A block that came with the claim."""
        self._block = block

    async def take_id(self) -> int:
        """An id that was never given out before, here or elsewhere.

        Raises:
            NotReady, StoreUnavailable, OutcomeUnknown: none is left, and the store does not give more.
        """
        async with self._lock:
            if not self._block:
                self._block = await self._from_reserve() or await self._new_block()
            producer_id = self._block[0]
            self._block = self._block[1:]
            return producer_id

    async def _from_reserve(self) -> range:
        piece, rest = self._reserve[:OFFLINE_PIECE], self._reserve[OFFLINE_PIECE:]
        if piece:
            await self._mirror.save_producer_ids(rest)  # before the first of them is given out
            self._reserve = rest
        return piece

    async def stock(self) -> bool:
        """Fetch a block for the reserve if there is none; whether one was fetched."""
        async with self._lock:
            if self._reserve:
                return False
            block = await self._new_block()
            await self._mirror.save_producer_ids(block)
            self._reserve = block
            return True
