"""A request that went the general way and is not answered yet: its place in the order of replies, and what its handler is told about it.

Invariants: one object for a request: the context that a handler gets is the slot itself.
"""

from __future__ import annotations

import logging
from mmap import mmap
from typing import Any

from hotlog.answers.api import Caller, RequestContext
from hotlog.front.dispatch import Door
from hotlog.world.ports import Buffer, Streamed

LOG = logging.getLogger(__name__)


class Slot(RequestContext):
    """`buffers` are None until the reply is known; empty for "no reply".  `mapping` is that of a very large frame."""

    __slots__ = ("buffers", "door", "frame_bytes", "mapping", "request")

    def __init__(
        self,
        door: Door,
        correlation_id: int,
        client_id: str | None,
        caller: Caller,
        arrived: float,
        request: Any,
        frame_bytes: int,
    ) -> None:
        self.api_key = door.api.key
        self.version = door.version
        self.correlation_id = correlation_id
        self.client_id = client_id
        self.caller = caller
        self.arrived = arrived
        self.has_failed = False
        self.door = door
        self.request = request
        self.frame_bytes = frame_bytes
        self.buffers: list[Buffer | Streamed] | None = None
        self.mapping: mmap | None = None

    def tell(self, seconds: float) -> None:
        """One line for an operator who looks at requests."""
        LOG.debug(
            "%s version %d of %s:%d (connection %d, client %r): %s in %.1f ms, %d bytes in, %d out",
            self.door.api.name, self.version, *self.caller.peer, self.caller.connection_id, self.client_id,
            "refused" if self.has_failed else "done", seconds * 1000, self.frame_bytes, sum(map(len, self.buffers or ())),
        )  # fmt: skip
