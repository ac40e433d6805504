"""The port to the other nodes of the cluster, as the controller needs it: is one alive, and send a change to it.

Invariants: nothing here is trusted for safety.  Who may commit is decided by the conditional write of the head alone; a wrong answer about who
is alive costs an election, or a wait.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from hotlog.kernel.errors import NotReady


class Liveness(Enum):
    """What is known of another node."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"  # there is no way to tell


class Peers(Protocol):
    """The other nodes."""

    async def liveness(self, node_id: int) -> Liveness:
        """Whether `node_id` answers; waits a moment at most."""
        ...

    async def submit(self, node_id: int, change: bytes) -> bytes:
        """Have `Metadata.serve` of `node_id` answer `change`.

        Raises:
            Retry: it was not reached, nothing happened.  OutcomeUnknown: the answer was lost.
        """
        ...


class Alone:
    """For a broker that knows no way to others."""

    async def liveness(self, node_id: int) -> Liveness:
        return Liveness.UNKNOWN

    async def submit(self, node_id: int, change: bytes) -> bytes:
        raise NotReady(f"node {node_id} is the controller, and there is no way to it from here")


ALONE = Alone()
