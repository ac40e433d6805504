"""The cluster's metadata as one node has it: an image to read, and changes to submit, wherever the active controller is.

    OFFLINE --join--> ACTIVE <--claim, deposed--> FOLLOWING --the place was taken over--> FENCED
       |                 +--- deposed by a node that cannot be asked ---------------------^
       +--- the store is another's, or unfit; the place is another directory's -----------^

Offline it serves the image of the local copy and refuses changes (retriable); joining goes on beside that, for as long as the store gives no
answer.  Active it commits changes, its own and those that others send (`serve`).  Following it reads the log and sends its changes to the node
whose lease it is (controller.lease says whose turn it is).  Fenced it refuses changes until restart.

Invariants: a change is committed under the epoch that this process claimed, or by the node that it was sent to; it is in `image` when `submit`
returns; the cluster id of the data directory and of the store are the same, and the store was examined in this run, or nothing is written; no store,
however late, keeps a node that has a copy of the metadata from serving it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum

from controller.change_codec import Answer
from controller.changes import AllocateProducerIds, Change, IdsAllocated, Plan
from controller.config_rules import DynamicSettings, Scope
from controller.ends import NodeEnds
from controller.founding import find_cluster, found_cluster
from controller.image import ClusterImage
from controller.joining import Joining
from controller.journal import Decide, Deposed, Journal
from controller.lease import Lease, Standing, Turn
from controller.mirror import Mirror
from controller.peers import ALONE, Peers
from controller.producer_ids import ProducerIds
from controller.records import Record
from controller.registration import Registration, TakeOver
from controller.remote import send, serve
from controller.words import words
from hotlog.kernel.errors import (
    Fenced,
    ForeignStore,
    HotlogError,
    NotReady,
    OutcomeUnknown,
    Retry,
    StoreUnavailable,
    UnknownVersion,
)
from hotlog.kernel.settings import Settings
from hotlog.world.ports import World

LOG = logging.getLogger(__name__)
OPEN_WAIT_S = 15.0  # a start without a copy of the metadata asks the store that long
HOT_WAIT_S = 1.0  # one with a copy waits that long for the store, and serves
TICK_WAIT_S = 1.0  # a tick waits that long for the try under way
FIRST_PAUSE_S = 0.5
COMMIT_WAIT_S = 5.0  # a change waits that long for it
NOT_OURS = (ForeignStore, UnknownVersion)  # what ends the part that this process takes in the cluster


class State(Enum):
    """What this node may do about metadata."""

    OFFLINE = "offline"
    FOLLOWING = "following"
    ACTIVE = "active"
    FENCED = "fenced"


async def _unexamined() -> None:
    """For a store whose promises are known."""


class Metadata:
    """Of one node.  `directory` is its own place in the data directory; `settings` are those of the node's file.

    `examine` is awaited before the first write to the store, at the start or when the store is there at last: it raises ForeignStore for
    a store that is not safe to use, StoreUnavailable while it cannot tell.  `take_over`: see Registration.
    """

    def __init__(
        self,
        world: World,
        *,
        directory: str,
        settings: Settings,
        peers: Peers = ALONE,
        examine: Callable[[], Awaitable[None]] = _unexamined,
        take_over: TakeOver | None = None,
    ) -> None:
        self.node_id = settings.number("node.id")
        self.state = State.OFFLINE
        self.fenced_because = ""
        self.cluster_id = ""
        self._store = world.store.bind(purpose="meta")
        self._clock = world.clock
        self._entropy = world.entropy
        self._settings = DynamicSettings(settings, self.node_id)
        self._refused_settings: Mapping[str, str] = {}  # as told last
        self._peers = peers
        self._examine = examine
        self._mirror = Mirror(world.disk, directory)
        self.registration = Registration(
            self._mirror, self._store, world.clock, node_id=self.node_id, rack=settings.text("broker.rack"),
            incarnation=world.entropy.uuid(), take_over=take_over,
        )  # fmt: skip
        self._lease = Lease(self.node_id, self._peers)
        self._joining = Joining(self._join, world.clock)
        self._journal: Journal | None = None
        self._was_here = False  # whether this directory has metadata of the cluster
        self._is_open = False
        self._first_ids = range(0)  # that came with the newest claim
        self._producer_ids = ProducerIds(self._mirror, self._new_block)

    # -- what is known

    @property
    def image(self) -> ClusterImage:
        """The newest committed image this node knows."""
        assert self._journal is not None, "open() comes first"
        return self._journal.log.image  # asked for at every request: no property between

    @property
    def _log(self) -> Journal:
        assert self._journal is not None, "open() comes first"
        return self._journal

    @property
    def settings(self) -> Settings:
        """This node's, with what the metadata says over its file; what of that cannot hold is told once."""
        settings, refused = self._settings.at(self.image), self._settings.refused
        if refused != self._refused_settings:
            self._refused_settings = refused
            for name, why in refused.items():
                LOG.error("%s, as the metadata has it, counts as not set: %s", name, why)
        return settings

    @property
    def ends(self) -> NodeEnds:
        """How far this node's logs have come, as noted in the store."""
        return self.registration.ends

    @property
    def epoch(self) -> int:
        """The controller epoch that this process claimed last; -1: none."""
        return self._lease.epoch

    @property
    def is_joined(self) -> bool:
        """Whether the store is the cluster's, was examined, and this life has its node's place there."""
        return self.state in (State.ACTIVE, State.FOLLOWING)

    @property
    def offline_because(self) -> str:
        """What the last try to join met."""
        return self._joining.because

    # -- life

    async def open(self, expected_cluster_id: str | None = None) -> None:
        """Find or found the cluster and take part in it, or start from the local copy if the store is away.

        `expected_cluster_id` is what the data directory says it belongs to.

        Raises:
            Invalid: another process runs on this data directory.  ForeignStore: the store belongs to another cluster, was wiped, was set
                back, or another data directory has taken over this node id.  StoreUnavailable: no store and no local copy, as at the very
                first start.  UnknownVersion: a newer program wrote the metadata.
        """
        await self._mirror.open()
        await self._producer_ids.open()
        local = await self._mirror.head()
        known = expected_cluster_id or (local.cluster_id if local else None)
        if local is not None and known != local.cluster_id:
            raise ForeignStore(f"the data directory is of cluster {known}, its metadata copy is of cluster {local.cluster_id}")
        self.cluster_id = known or ""
        self._was_here = local is not None
        if local is not None and await self._load():
            await self._joining.wait(HOT_WAIT_S)
            self._joined()
        else:
            await self._join_at_last()
        self._is_open = True

    async def _join_at_last(self) -> None:
        """Join, as there is nothing to serve before."""
        give_up = self._clock.monotonic() + OPEN_WAIT_S
        while True:
            await self._joining.wait(None)
            if self._joined():
                return
            left = give_up - self._clock.monotonic()
            if left <= 0 or self._joining.is_refused:
                raise StoreUnavailable(
                    f"the object store did not answer in {OPEN_WAIT_S:.0f} s, and this data directory has no metadata to start"
                    f" from without it: {self.offline_because}"
                )
            await asyncio.sleep(min(left, FIRST_PAUSE_S))

    def _joined(self) -> bool:
        """Whether the try under way has ended well.

        Raises:
            ForeignStore: the store is not this cluster's, or unfit.  UnknownVersion: it is a newer program's.  Fenced from then on.
        """
        try:
            return self._joining.ended_well()
        except NOT_OURS as foreign:
            self._fence(foreign)
            raise

    async def _join(self) -> None:
        """Reading comes first: a store that is another cluster's is left as it is."""
        found = await find_cluster(self._store, self.cluster_id or None, self._was_here)
        if found is not None:
            self.cluster_id = found
            await self._settle()
        await self._examine()
        if found is None:
            self.cluster_id = await found_cluster(self._store, self.cluster_id or None, self._clock, self._entropy)
            await self._settle()
        await self._take_part(Standing.STARTING)

    async def _settle(self) -> None:
        if self._journal is None:
            await self._load()
        await self.registration.settle(await self._log.catch_up(), self.cluster_id)

    async def _load(self) -> bool:
        """Start from the local copy; False if there is none that is whole."""
        self._journal = Journal(self._store, self._mirror, self.cluster_id, clock=self._clock, entropy=self._entropy)
        return await self._journal.load_mirror()

    async def _take_part(self, standing: Standing) -> None:
        """Claim, or follow whoever has claimed; registered either way."""
        turn = await self._lease.seek(self._log, standing, self._opening)
        if turn is Turn.CLAIM:
            self._producer_ids.use(self._first_ids)
            self.state = State.ACTIVE
            return
        if not self.registration.is_in(self.image):
            register = await self.registration.change(self.image, raises_epochs=not self._is_open)
            answer = await send(register, self._log, self._peers, self.node_id)
            self.registration.require(answer.results[0], self.cluster_id)
        self.state = State.FOLLOWING

    async def _opening(self, image: ClusterImage) -> Decide:
        """The first records of an epoch: this life of the node, and producer ids for it."""
        register = await self.registration.change(image, raises_epochs=not self._is_open)

        def decide(now: ClusterImage) -> Sequence[Record]:
            registered = register.plan(now, self._scope(now))
            self.registration.require(registered.results[0], self.cluster_id)
            ids = AllocateProducerIds(node_id=self.node_id).plan(now, self._scope(now))
            self._first_ids = _block_of(ids)
            return (*registered.records, *ids.records)

        return decide

    def _fence(self, reason: HotlogError) -> None:
        self.state, self.fenced_because = State.FENCED, str(reason)

    async def close(self) -> None:
        """Let go of the metadata directory; a try to join ends where it is."""
        await self._joining.close()
        await self._mirror.close()

    async def tick(self) -> bool:
        """Join if that is still to be done; follow the log, or delete what was retired.  True if something was done.

        Raises:
            ForeignStore: the store is not this cluster's, or the node's place was taken over.  UnknownVersion: a newer program wrote to it.
                Fenced from then on.
        """
        if self.state is State.OFFLINE:
            if not self._joining.is_due:
                return False
            await self._joining.wait(TICK_WAIT_S)
            return self._joined()
        try:
            if self.state is State.FOLLOWING:
                return await self._follow() or await self._producer_ids.stock()
            if self.state is State.ACTIVE:
                return await self._keep()
        except (Retry, OutcomeUnknown):
            return False
        except NOT_OURS as foreign:
            self._fence(foreign)
            raise
        return False

    async def _keep(self) -> bool:
        """What the active controller does beside commits."""
        if self._log.is_in_doubt:  # the outcome of a commit is still unknown
            await self._log.catch_up()
            return True
        return await self._log.reap() or await self._producer_ids.stock()

    async def _follow(self) -> bool:
        """Read what is new, and take the lease if it is this node's turn."""
        before = self.image.offset
        if not self.registration.is_in(await self._log.catch_up()):
            raise self.registration.elsewhere(self.cluster_id)
        await self._take_part(Standing.FOLLOWING)
        return self.image.offset > before

    # -- changes

    async def submit(self, change: Change) -> Answer:
        """Have `change` committed, here or by the active controller, and see it in `image`; a result for each of its items.

        Raises:
            NotReady: the store has been away since the start, or the controller can't be asked.  Retry: nothing happened.
            OutcomeUnknown: it may have; to submit the same value again is safe.  Fenced: another controller took over, and there is no way
            to it.  ForeignStore, UnknownVersion: the store is another's now; the next tick says so too, and fences.
        """
        if self.state is State.OFFLINE and self._joining.is_under_way:
            await self._joining.wait(COMMIT_WAIT_S)
        if self.state is State.FENCED:  # before, or by what that try found
            raise Fenced(f"controller epoch {self.epoch} of node {self.node_id} was deposed")
        self._require_store()
        if self.state is State.ACTIVE:
            try:
                return await self._commit(change)
            except Deposed as deposed:
                if not await self._gives_way(deposed):
                    raise
        return await send(change, self._log, self._peers, self.node_id)

    def plan(self, change: Change) -> Plan:
        """What `change` would do to the newest image that is known here; nothing is changed."""
        return change.plan(self.image, self._scope(self.image))

    def _scope(self, image: ClusterImage) -> Scope:
        return Scope(self._settings.at(image), self.node_id, self._clock.now_ms())

    def _require_store(self) -> None:
        if self.state is State.OFFLINE:
            raise NotReady(
                "the object store has been away since this broker started; metadata cannot change until it is back"
                f" ({self.offline_because or 'it has not answered yet'})"
            )

    async def _commit(self, change: Change) -> Answer:
        plan = Plan((), ())

        def decide(image: ClusterImage) -> Sequence[Record]:
            nonlocal plan
            plan = change.plan(image, self._scope(image))
            return plan.records

        image = await self._log.commit(self.epoch, decide)
        for told in filter(None, (words(record, image) for record in plan.records)):
            LOG.info("%s", told)
        return Answer(image.offset, plan.results)

    async def _gives_way(self, deposed: Deposed) -> bool:
        """After another claim: True if this node follows from now on; otherwise it is fenced."""
        turn = await self._lease.turn_after(deposed.by)
        if self.state is State.ACTIVE:  # nobody else has seen to it meanwhile
            if turn is Turn.FENCED:
                self._fence(deposed)
            else:
                self.state = State.FOLLOWING
        return self.state is State.FOLLOWING

    async def serve(self, raw: bytes) -> bytes:
        """Answer a change that another node sent (Peers.submit)."""
        return await serve(raw, self.cluster_id, self._commit_for_other)

    async def _commit_for_other(self, change: Change) -> Answer:
        if self.state is not State.ACTIVE:
            raise Fenced(f"node {self.node_id} is not the controller: it is {self.state.value}")
        try:
            return await self._commit(change)
        except Deposed as deposed:
            await self._gives_way(deposed)
            raise

    # -- producer ids

    async def allocate_producer_id(self) -> int:
        """A producer id that was never given out before, here or elsewhere: from a block, or from the reserve, while they last.

        Raises:
            NotReady, Retry, OutcomeUnknown, Fenced: none is left, and none is given; the message says why.
        """
        return await self._producer_ids.take_id()

    async def _new_block(self) -> range:
        self._require_store()  # not waiting for a try to join: producers ask again
        return _block_of(await self.submit(AllocateProducerIds(node_id=self.node_id)))


def _block_of(planned: Plan | Answer) -> range:
    (ids,) = planned.results
    assert isinstance(ids, IdsAllocated), ids
    return range(ids.start, ids.end)
