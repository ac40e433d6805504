"""The controller of this node: opens the metadata log, claims it, commits to it, and goes on without the store for a while.

    OFFLINE --join: examine, claim--> ACTIVE --a newer epoch--> FENCED
       +--------- the store is another's, or unfit ---------^

Offline it serves the image of the local copy and refuses changes (retriable).  Fenced it refuses changes until restart.  Joining goes on
beside serving, for as long as the store gives no answer.

Invariants: a change is committed under the epoch that this process claimed; the cluster id of the data directory and of the store
are the same, and the store was examined in this run, or nothing is written; a data directory whose node id was taken over by another
one never leads again; no store, however late, keeps a node that has a copy of the metadata from serving it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from enum import Enum
from uuid import UUID

from controller import codec
from controller.ends import NodeEnds
from controller.image import ClusterImage
from controller.journal import Decide, Journal
from controller.keys import CLUSTER_KEY
from controller.mirror import Mirror, NoMirror
from controller.producer_ids import PRODUCER_ID_BLOCK, ProducerIds
from controller.records import BrokerStarted, ProducerIdsAllocated, Record
from hotlog.kernel.errors import (
    Fenced,
    ForeignStore,
    HotlogError,
    NotFound,
    NotReady,
    OutcomeUnknown,
    PreconditionFailed,
    Retry,
    StoreRefused,
    StoreUnavailable,
)
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore

OPEN_WAIT_S = 15.0  # a start without a copy of the metadata asks the store that long
HOT_WAIT_S = 1.0  # one with a copy waits that long for the store, and serves
JOIN_SECONDS_MAX = 60.0  # of one try to join
JOIN_FREELY_S = 16.0  # the first four tries may follow each other as ticks come; then the wait doubles
JOIN_AGAIN_S_MAX = 60.0
TICK_WAIT_S = 1.0  # a tick waits that long for the try under way
FIRST_PAUSE_S = 0.5
FOUND_TRIES_MAX = 3
COMMIT_WAIT_S = 5.0  # a change waits that long for it


class State(Enum):
    """What this controller may do."""

    OFFLINE = "offline"
    ACTIVE = "active"
    FENCED = "fenced"


async def _unexamined() -> None:
    """For a store whose promises are known."""


class Controller:
    """Metadata for one broker.  `directory` is its own place in the data directory.

    `examine` is awaited before the first write to the store, at the start or when the store is there at last: it raises ForeignStore for
    a store that is not safe to use, StoreUnavailable while it cannot tell.  `open_wait_s` is how long `open` waits for the store (None:
    OPEN_WAIT_S, or HOT_WAIT_S where there is a local copy).  `take_over` is awaited when this node was last run from another directory:
    it raises ForeignStore unless that may be given up (None: it may not).
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        clock: Clock,
        disk: Disk,
        entropy: Entropy,
        directory: str,
        node_id: int,
        rack: str = "",
        open_wait_s: float | None = None,
        examine: Callable[[], Awaitable[None]] = _unexamined,
        take_over: Callable[[ClusterImage], Awaitable[None]] | None = None,
    ) -> None:
        self.node_id = node_id
        self.state = State.OFFLINE
        self.fenced_because = ""
        self.epoch = -1
        self.cluster_id = ""
        self._store = store.bind(purpose="meta")
        self._clock = clock
        self._entropy = entropy
        self._mirror = Mirror(disk, directory)
        self._rack = rack
        self._open_wait_s = open_wait_s
        self._examine = examine
        self._take_over = take_over
        self._taken_over: UUID | None = None  # the life whose place may be taken
        self._ends: NodeEnds | None = None
        self._incarnation = UUID(int=0)
        self._journal: Journal | None = None
        self._was_here = False  # whether this directory has metadata of the cluster
        self._is_open = False
        self._joining: asyncio.Task[bool] | None = None
        self._join_failures = 0
        self._join_again_at = 0.0
        self._is_refused = False  # whether the store will not serve us as things are
        self.offline_because = ""  # what the last try to join met
        self._producer_ids = ProducerIds(self._mirror, self._new_block)

    @property
    def image(self) -> ClusterImage:
        """The newest committed image this node knows."""
        return self._opened.image

    @property
    def _opened(self) -> Journal:
        assert self._journal is not None, "open() comes first"
        return self._journal

    @property
    def ends(self) -> NodeEnds:
        """How far this node's logs have come, as noted in the store."""
        assert self._ends is not None, "there is none before the metadata was read from the store"
        return self._ends

    async def open(self, expected_cluster_id: str | None = None) -> None:
        """Find or found the cluster, claim its metadata, or start from the local copy if the store is away.

        `expected_cluster_id` is what the data directory says it belongs to.

        Raises:
            Invalid: another process runs on this data directory.  ForeignStore: the store belongs to another cluster, was wiped, was set back, or another data directory has taken
                over this node id.  StoreUnavailable: no store and no local copy, as at the very first start.
        """
        await self._mirror.open()
        await self._producer_ids.open()
        local = await self._mirror.head()
        known = expected_cluster_id or (local.cluster_id if local else None)
        if local is not None and known != local.cluster_id:
            raise ForeignStore(f"the data directory is of cluster {known}, its metadata copy is of cluster {local.cluster_id}")
        self._incarnation = self._entropy.uuid()
        self.cluster_id = known or ""
        self._was_here = local is not None
        if local is not None and await self._load():
            await asyncio.wait([self._begin_to_join()], timeout=self._wait_s(HOT_WAIT_S))
            self._joined()
        else:
            await self._join_at_last()
        self._is_open = True

    def _wait_s(self, otherwise: float) -> float:
        return otherwise if self._open_wait_s is None else self._open_wait_s

    async def _join_at_last(self) -> None:
        """Join, as there is nothing to serve before."""
        give_up = self._clock.monotonic() + self._wait_s(OPEN_WAIT_S)
        while True:
            await asyncio.wait([self._begin_to_join()])
            if self._joined():
                return
            left = give_up - self._clock.monotonic()
            if left <= 0 or self._is_refused:
                raise StoreUnavailable(
                    f"the object store did not answer in {self._wait_s(OPEN_WAIT_S):.0f} s, and this data directory has no metadata to start"
                    f" from without it: {self.offline_because}"
                )
            await asyncio.sleep(min(left, FIRST_PAUSE_S))

    # -- joining

    def _begin_to_join(self) -> asyncio.Task[bool]:
        if self._joining is None:
            self._joining = asyncio.get_running_loop().create_task(self._join_quietly(), name="join the cluster")
        return self._joining

    def _joined(self) -> bool:
        """Whether the try under way has ended well; it is forgotten once it has ended.

        Raises:
            ForeignStore: the store is not this cluster's, or unfit: fenced from then on.
        """
        task = self._joining
        if task is None or not task.done():
            return False
        self._joining = None
        try:
            return task.result()
        except ForeignStore as foreign:
            self._fence(foreign)
            raise

    async def _join_quietly(self) -> bool:
        """One try; False if the store gave no answer (yet)."""
        try:
            async with asyncio.timeout(JOIN_SECONDS_MAX):
                await self._join()
        except (Retry, OutcomeUnknown, TimeoutError) as weather:
            self._is_refused = isinstance(weather, StoreRefused)
            self.offline_because = str(weather) or f"not done in {JOIN_SECONDS_MAX:.0f} s"
            self._join_failures += 1
            self._join_again_at = self._clock.monotonic() + min(2.0**self._join_failures - JOIN_FREELY_S, JOIN_AGAIN_S_MAX)
            return False
        self.offline_because, self._join_failures = "", 0
        return True

    async def _join(self) -> None:
        """Reading comes first: a store that is another cluster's is left as it is."""
        found = await find_cluster(self._store, self.cluster_id or None, self._was_here)
        if found is not None:
            self.cluster_id = found
            await self._settle_place()
        await self._examine()
        if found is None:
            self.cluster_id = await found_cluster(self._store, self.cluster_id or None, self._clock, self._entropy)
            await self._settle_place()
        await self._claim(raises_epochs=not self._is_open)

    async def _settle_place(self) -> None:
        """See who had this node's place last; if that was another directory, it must be given up knowingly."""
        if self._journal is None:
            await self._load()
        image = await self._opened.catch_up()
        last = image.brokers.get(self.node_id)
        self._ends = NodeEnds(
            self._store, self._clock, cluster_id=self.cluster_id, node_id=self.node_id, incarnation=self._incarnation,
            last_incarnation=last.incarnation if last is not None else None,
        )  # fmt: skip
        if last is None or await self._is_own(last.incarnation):
            return
        if self._take_over is None:
            raise self._elsewhere()
        await self._take_over(image)
        self._taken_over = last.incarnation

    async def _is_own(self, incarnation: UUID) -> bool:
        return incarnation in (self._incarnation, self._taken_over) or str(incarnation) in await self._mirror.incarnations()

    def _elsewhere(self) -> ForeignStore:
        return ForeignStore(
            f"node.id {self.node_id} of cluster {self.cluster_id} was taken over by another data directory since this one"
            " was last used; it must not lead again: give it another node.id or an empty directory"
        )

    async def _load(self) -> bool:
        """Start from the local copy; False if there is none that is whole."""
        self._journal = Journal(self._store, self._mirror, self.cluster_id, clock=self._clock, entropy=self._entropy)
        return await self._journal.load_mirror()

    async def _claim(self, *, raises_epochs: bool) -> None:
        own = {self._incarnation, self._taken_over, *map(UUID, await self._mirror.incarnations())}
        before = self._opened.image.brokers.get(self.node_id)
        await self._mirror.add_incarnation(str(self._incarnation), str(before.incarnation) if before is not None else None)
        block = range(0)

        def started(image: ClusterImage) -> list[Record]:
            last = image.brokers.get(self.node_id)
            if last is not None and last.incarnation not in own:
                raise self._elsewhere()
            nonlocal block
            block = _block_after(image)
            return [
                BrokerStarted(node_id=self.node_id, incarnation=self._incarnation, rack=self._rack, raises_epochs=raises_epochs),
                ProducerIdsAllocated(node_id=self.node_id, start=block.start, end=block.stop),
            ]

        self.epoch = await self._opened.claim(self.node_id, started)
        self._producer_ids.use(block)
        self.state = State.ACTIVE

    def _require_store(self) -> None:
        if self.state is State.OFFLINE:
            raise NotReady(
                "the object store has been away since this broker started; metadata cannot change until it is back"
                f" ({self.offline_because or 'it has not answered yet'})"
            )

    def _fence(self, reason: HotlogError) -> None:
        self.state = State.FENCED
        self.fenced_because = str(reason)

    async def close(self) -> None:
        """Let go of the metadata directory; a try to join ends where it is."""
        joining, self._joining = self._joining, None
        if joining is not None:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
        await self._mirror.close()

    async def commit(self, decide: Decide) -> ClusterImage:
        """Append what `decide` makes of the newest image; the image after it.

        Raises:
            NotReady: the store has been away since the start.  StoreUnavailable, OutcomeUnknown: retriable, see Journal.commit.
            Fenced: another controller took over.  Whatever `decide` raises.
        """
        if self.state is State.FENCED:
            raise Fenced(f"controller epoch {self.epoch} of node {self.node_id} was deposed")
        if self.state is State.OFFLINE and self._joining is not None:
            await asyncio.wait([self._joining], timeout=COMMIT_WAIT_S)
        self._require_store()
        try:
            return await self._opened.commit(self.epoch, decide)
        except Fenced as deposed:
            self._fence(deposed)
            raise

    async def tick(self) -> bool:
        """Claim if that is still to be done; delete what was retired.  True if something was done.

        Raises:
            ForeignStore: the store that came back is not this cluster's; this controller is fenced from then on.
        """
        if self.state is State.OFFLINE:
            if self._joining is None and self._clock.monotonic() < self._join_again_at:
                return False
            await asyncio.wait([self._begin_to_join()], timeout=TICK_WAIT_S)
            return self._joined()
        self._joining = None
        if self.state is State.ACTIVE:
            try:
                if self._opened.head is None:  # the outcome of a commit is still unknown
                    await self._opened.catch_up()
                    return True
                return await self._opened.reap() or await self._producer_ids.stock()
            except (Retry, OutcomeUnknown):
                return False
        return False

    async def allocate_producer_id(self) -> int:
        """A producer id that was never given out before, here or elsewhere: from a block, or from the reserve, while they last.

        Raises:
            NotReady, StoreUnavailable, OutcomeUnknown: none is left, and the store does not give more; the message says why.
        """
        return await self._producer_ids.take()

    async def _new_block(self) -> range:
        block = range(0)

        def allocated(image: ClusterImage) -> list[Record]:
            nonlocal block
            block = _block_after(image)
            return [ProducerIdsAllocated(node_id=self.node_id, start=block.start, end=block.stop)]

        self._require_store()  # not waiting for a try to join: producers ask again
        await self.commit(allocated)
        return block


def _block_after(image: ClusterImage) -> range:
    """The first producer ids that nobody has."""
    return range(image.producer_id_next, image.producer_id_next + PRODUCER_ID_BLOCK)


def new_cluster_id(entropy: Entropy) -> str:
    """22 characters of URL-safe base64, as Kafka's Uuid.toString; never one that begins with "-" (option parsers)."""
    while True:
        text = base64.urlsafe_b64encode(entropy.uuid().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


async def read_cluster(store: ObjectStore) -> str:
    """The id of the cluster that this bucket (and prefix) belongs to.

    Raises:
        NotFound: none has been founded here.  Corrupt.
    """
    body = codec.unseal(codec.MARKER, bytes((await store.get(CLUSTER_KEY)).data))
    return str(body.get("cluster_id"))


async def find_cluster(store: ObjectStore, expected: str | None, was_here: bool) -> str | None:
    """The store's cluster id; None if no cluster was founded in it.

    Raises:
        ForeignStore: the store is not that of the `expected` cluster; or it has no marker though this data directory was there
            before (`was_here`).
    """
    try:
        found = await read_cluster(store)
    except NotFound:
        found = None
    if found is not None and expected is not None and found != expected:
        raise ForeignStore(
            f"the object store holds cluster {found}, but this data directory belongs to cluster {expected}:"
            " nothing will be written there; check --store and --data-dir"
        )
    if found is None and was_here:
        raise ForeignStore(
            f"the object store has no cluster marker, but this data directory has metadata of cluster {expected}:"
            " the bucket was wiped, or bucket or prefix is wrong"
        )
    return found


async def found_cluster(store: ObjectStore, expected: str | None, clock: Clock, entropy: Entropy) -> str:
    """Found a cluster in a store that has none; its id.

    Raises:
        ForeignStore: somebody else was first.
    """
    for _ in range(FOUND_TRIES_MAX):
        body = {"cluster_id": expected or new_cluster_id(entropy), "created_ms": clock.now_ms(), "nonce": entropy.uuid().hex}
        with contextlib.suppress(PreconditionFailed, OutcomeUnknown):  # whoever was first named it: read it
            await store.put(CLUSTER_KEY, codec.seal(codec.MARKER, body), if_absent=True)
        found = await find_cluster(store, expected, False)
        if found is not None:
            return found
    raise StoreUnavailable(f"{CLUSTER_KEY} could not be written in {FOUND_TRIES_MAX} tries")


async def read_image(store: ObjectStore, clock: Clock, entropy: Entropy) -> tuple[str, ClusterImage]:
    """(cluster id, image) from the bucket alone, without a claim: for commands that work without a broker."""
    bound = store.bind(purpose="meta")
    cluster_id = await read_cluster(bound)
    journal = Journal(bound, NoMirror(), cluster_id, clock=clock, entropy=entropy)
    return cluster_id, await journal.catch_up()
