"""A consumer that polls through the fetch planner, over many lives, and never sees a step back, a gap or a stranger.

Invariants (the Jepsen vocabulary of faults.md): no skipped poll, no nonmonotonic poll, no phantom; out of range only below the log start.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kio.schema.errors import ErrorCode

from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.parts import Limits
from hotlog.apis.fetch.rounds import Round
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import Key, Wanted
from tests.sim.bucket import Violation
from tests.sim.checker import Ledger, batches_of
from tests.sim.world import Life

POLL_BYTES = 32 * 1024
WAIT_SECONDS = 30.0


@dataclass
class Consumer:
    """Reads one partition from `position` on; `read` counts batches."""

    topic: str
    index: int
    ledger: Ledger
    position: int = 0
    read: int = 0
    last: int = -1  # number of the newest batch seen
    poll_bytes: int = POLL_BYTES

    async def poll(self, life: Life) -> bool:
        """One fetch; True if it brought something."""
        reply = await self._fetch(life)
        if reply.code is ErrorCode.offset_out_of_range:
            if self.position >= reply.log_start_offset:
                raise Violation(
                    f"{self.ledger.name}: offset {self.position} is out of range, the log starts at {reply.log_start_offset}"
                )
            self.position = reply.log_start_offset
            return True
        if reply.code is not ErrorCode.none:
            return False
        found = batches_of(bytes(reply.records), self.position)
        for batch in found:
            one = self.ledger._by_body.get(batch.body)
            if one is None:
                raise Violation(f"{self.ledger.name}: a consumer got a batch at offset {batch.base_offset} that nobody sent")
            if not batch.base_offset <= self.position < batch.next_offset:
                raise Violation(
                    f"{self.ledger.name}: a consumer at {self.position} got [{batch.base_offset}, {batch.next_offset})"
                )
            if one.number <= self.last:
                raise Violation(f"{self.ledger.name}: a consumer got batch {one.number} after batch {self.last}")
            self.position, self.last, self.read = batch.next_offset, one.number, self.read + 1
        return bool(found)

    async def drain(self, life: Life, *, polls_max: int = 2000) -> None:
        """Poll until nothing comes."""
        for _ in range(polls_max):
            if not await self.poll(life):
                return

    async def _fetch(self, life: Life) -> PartitionReply:
        broker, loop = life.broker, life.world.loop
        wanted: list[tuple[Key, Wanted]] = [((self.topic, self.index), Wanted(self.position, self.poll_bytes))]
        fetch = Round(broker, broker.kept[Fetches].cold_reads, wanted, Limits(self.poll_bytes, 1, False))
        fetch.look()
        deadline = loop.time() + WAIT_SECONDS
        while not fetch.is_satisfied and loop.time() < deadline:
            if fetch.is_on_disk:
                await fetch.read_disk()
                continue
            if not fetch.in_store():
                break
            await asyncio.sleep(0.02)
            fetch.look()
        ((_, reply),) = fetch.replies()
        return reply
