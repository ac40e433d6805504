"""Who is the active controller, and whether it is this node's turn to be.

The lease is the newest `controller-claimed` in the head: it has no time limit, and ends when another node claims.  Who finds the lease of another
node asks whether that one is alive (controller.peers):

    this node is      the other is alive    gone        nobody can tell
    starting          follow                claim       claim      (one broker in the place of another, as after a move to another machine)
    following         follow                claim       follow
    deposed           follow                claim       fenced     (until restart: two that can't see each other must not depose in turns)

Its own lease, of whatever life, and one that nobody has, a node claims at once; that the life before it is over was settled by
controller.registration.

Invariants: no clock decides; of two that claim the same epoch one is first, by the conditional write of the head, and the other looks again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from controller.follower import ATTEMPTS_MAX
from controller.image import ClusterImage
from controller.journal import Deposed, Journal, Moved
from controller.peers import Liveness, Peers
from controller.records import Record
from hotlog.kernel.errors import PreconditionFailed

NOBODY = -1


class Standing(Enum):
    """What this node has been so far."""

    STARTING = "starting"
    FOLLOWING = "following"
    DEPOSED = "deposed"


class Turn(Enum):
    """What it is to do now."""

    CLAIM = "claim"
    FOLLOW = "follow"
    FENCED = "fenced"


TURNS: dict[tuple[Standing, Liveness], Turn] = {
    (Standing.STARTING, Liveness.ALIVE): Turn.FOLLOW,
    (Standing.STARTING, Liveness.GONE): Turn.CLAIM,
    (Standing.STARTING, Liveness.UNKNOWN): Turn.CLAIM,
    (Standing.FOLLOWING, Liveness.ALIVE): Turn.FOLLOW,
    (Standing.FOLLOWING, Liveness.GONE): Turn.CLAIM,
    (Standing.FOLLOWING, Liveness.UNKNOWN): Turn.FOLLOW,
    (Standing.DEPOSED, Liveness.ALIVE): Turn.FOLLOW,
    (Standing.DEPOSED, Liveness.GONE): Turn.CLAIM,
    (Standing.DEPOSED, Liveness.UNKNOWN): Turn.FENCED,
}

Opening = Callable[[ClusterImage], Awaitable[Callable[[ClusterImage], Sequence[Record]]]]


class Lease:
    """This node's side of it.  `epoch` is the one that it claimed last, -1 before."""

    def __init__(self, node_id: int, peers: Peers) -> None:
        self.epoch = -1
        self._node_id = node_id
        self._peers = peers

    async def turn(self, image: ClusterImage, standing: Standing) -> Turn:
        """What is to be done about the lease in `image`."""
        if image.controller_id in (NOBODY, self._node_id):
            return Turn.CLAIM
        return TURNS[standing, await self._peers.liveness(image.controller_id)]

    async def turn_after(self, by: int) -> Turn:
        """What is to be done now that node `by` has deposed this process; CLAIM at the next look at the log."""
        if by == self._node_id:  # another life of this node
            return Turn.FENCED
        return TURNS[Standing.DEPOSED, await self._peers.liveness(by)]

    async def seek(self, journal: Journal, standing: Standing, opening: Opening) -> Turn:
        """Claim if it is this node's turn, with the records of `opening` as the first of the epoch.

        CLAIM says that it was claimed.  `journal` has caught up.  What `opening` raises is raised.

        Raises:
            StoreUnavailable, OutcomeUnknown: a claim may have been written; look again.
        """
        for _ in range(ATTEMPTS_MAX):
            image = journal.image
            turn = await self.turn(image, standing)
            if turn is not Turn.CLAIM:
                return turn
            try:
                self.epoch = await journal.claim(self._node_id, image.controller_epoch, await opening(image))
            except (Moved, Deposed):
                await journal.catch_up()
                continue
            return Turn.CLAIM
        raise PreconditionFailed(f"lost {ATTEMPTS_MAX} races for the metadata of cluster {journal.cluster_id}")
