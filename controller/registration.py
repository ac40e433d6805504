"""Which process of this node holds the node's id in the cluster.  Another data directory takes the id over only if an operator says so.

Each process is a life (incarnation) of its node.  The lives that ran on one data directory are kept in a file there, written before the
registration that carries them; a life that is not among them ran elsewhere, on another disk with other logs.

Invariants: a data directory whose node id was taken over by another one never leads again; nothing is registered that the directory could not
recognise as its own later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from controller.changes import Refusal, RegisterBroker, Result
from controller.ends import NodeEnds
from controller.image import ClusterImage
from controller.mirror import Mirror
from hotlog.kernel.errors import ForeignStore
from hotlog.world.ports import Clock, ObjectStore

TakeOver = Callable[[ClusterImage], Awaitable[None]]


class Registration:
    """Of one life.  `take_over` is awaited when another directory had the place: it raises ForeignStore unless that may be given up (None: it
    may not)."""

    def __init__(
        self,
        mirror: Mirror,
        store: ObjectStore,
        clock: Clock,
        *,
        node_id: int,
        rack: str,
        incarnation: UUID,
        take_over: TakeOver | None,
    ) -> None:
        self.incarnation = incarnation
        self._mirror = mirror
        self._store = store
        self._clock = clock
        self._node_id = node_id
        self._rack = rack
        self._take_over = take_over
        self._taken_over: UUID | None = None  # the life whose place may be taken
        self._ends: NodeEnds | None = None

    @property
    def ends(self) -> NodeEnds:
        """How far this node's logs have come, as noted in the store."""
        assert self._ends is not None, "there is none before the metadata was read from the store"
        return self._ends

    async def settle(self, image: ClusterImage, cluster_id: str) -> None:
        """See who had this node's place last; if that was another directory, it must be given up knowingly.

        Raises:
            ForeignStore: it may not be.
        """
        last = image.brokers.get(self._node_id)
        self._ends = NodeEnds(
            self._store, self._clock, cluster_id=cluster_id, node_id=self._node_id, incarnation=self.incarnation,
            last_incarnation=last.incarnation if last is not None else None,
        )  # fmt: skip
        if last is None or last.incarnation in await self._own():
            return
        if self._take_over is None:
            raise self.elsewhere(cluster_id)
        await self._take_over(image)
        self._taken_over = last.incarnation

    async def _own(self) -> tuple[UUID, ...]:
        """The lives whose place this one may take."""
        taken_over = [self._taken_over] if self._taken_over is not None else []
        return tuple(dict.fromkeys([self.incarnation, *taken_over, *map(UUID, await self._mirror.incarnations())]))

    async def change(self, image: ClusterImage, *, raises_epochs: bool) -> RegisterBroker:
        """What registers this life."""
        own, before = await self._own(), image.brokers.get(self._node_id)
        await self._mirror.add_incarnation(str(self.incarnation), str(before.incarnation) if before is not None else None)
        return RegisterBroker(
            node_id=self._node_id, incarnation=self.incarnation, rack=self._rack, raises_epochs=raises_epochs, own=own
        )

    def require(self, result: Result, cluster_id: str) -> None:
        """That the registration was accepted.

        Raises:
            ForeignStore: another directory has the place.
        """
        if isinstance(result, Refusal):
            raise self.elsewhere(cluster_id)

    def is_in(self, image: ClusterImage) -> bool:
        """Whether this life has the place."""
        last = image.brokers.get(self._node_id)
        return last is not None and last.incarnation == self.incarnation

    def elsewhere(self, cluster_id: str) -> ForeignStore:
        return ForeignStore(
            f"node.id {self._node_id} of cluster {cluster_id} was taken over by another data directory since this one"
            " was last used; it must not lead again: give it another node.id or an empty directory"
        )
