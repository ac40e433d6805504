"""The transaction coordinator as doors see it: which shard keeps a transactional id, and what it is asked.

Transactional ids are kept in __transaction_state, a shard for each of its partitions that is led here (hotlog.coordinators.shards).

Invariants: an id changes only by events to its shard; every answer is given after what it says is committed to the log; what is not read yet is
answered COORDINATOR_LOAD_IN_PROGRESS, what is not here NOT_COORDINATOR.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, NamedTuple

from controller.features import TRANSACTION_VERSION, level_of
from controller.image import ClusterImage
from hotlog.coordinators.keyed_log import KeyedLog
from hotlog.coordinators.record_log import PartitionRecords, RecordLog
from hotlog.coordinators.shard import Memory, Shard
from hotlog.coordinators.shards import Shards
from hotlog.coordinators.transaction import verified
from hotlog.coordinators.transaction_kind import TransactionKind
from hotlog.coordinators.transaction_records import STRING_BYTES_MAX, TransactionCodec
from hotlog.coordinators.transaction_types import (
    NO_ID,
    AddPartitions,
    End,
    Ended,
    Initialized,
    InitId,
    Mark,
    Marked,
    NeedsId,
    Now,
    Place,
    Status,
    Transaction,
    TxnCode,
    Version,
)
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.settings import Settings
from hotlog.partitions.partition import Partition
from hotlog.wire.markers import Marker
from hotlog.world.ports import Clock, Entropy

LOG = logging.getLogger(__name__)
TOPIC = "__transaction_state"
LOOKED_AT_ONCE = 256  # ids, in one turn of the loop

MarkAll = Callable[[Marker, Version, Collection[Place]], Awaitable[Collection[Place]]]
"""Ends a transaction in partitions; those in which it is still to be ended."""


class Needs(NamedTuple):
    """What transactions need of the broker: a producer id that was never given, and a way to end one in partitions."""

    allocate_id: Callable[[], Awaitable[int]]
    mark_all: MarkAll


class TransactionShard(Shard[Transaction, str, Transaction]):
    """The transactional ids of one partition."""

    def __init__(
        self, log: RecordLog, kind: TransactionKind, clock: Clock, entropy: Entropy, memory: Memory, mark_all: MarkAll
    ) -> None:
        super().__init__(KeyedLog(log, TransactionCodec(), clock, entropy), kind, clock, memory)
        self._mark_all = mark_all

    async def done(self, what: Mark) -> Marked:
        """Tell partitions of the end of a transaction."""
        marker = Marker(what.producer_id, what.epoch, self.log.log.leader_epoch, what.is_commit)
        left: Collection[Place] = what.partitions
        try:
            left = await self._mark_all(marker, what.version, what.partitions)
        except (HotlogError, OSError) as problem:
            LOG.warning("the transaction of producer %d is still to be ended: %s", what.producer_id, problem)
        return Marked(what.producer_id, what.epoch, frozenset(left))

    async def tick(self) -> bool:
        """One bounded piece of upkeep; whether there was any.

        Raises:
            StorageFailed, DiskFull: tried again by the next call.
        """
        has_swept = self.sweep(LOOKED_AT_ONCE)
        return self.log.keep_short() or has_swept


class TransactionCoordinator:
    """All transactional ids of this node.  The callables reach the broker, as those of the group coordinator do."""

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        clock: Clock,
        entropy: Entropy,
        partition_of: Callable[[int], Partition | None],
        ensure_topic: Callable[[], Awaitable[None]],
        image: Callable[[], ClusterImage],
        hosting_version: Callable[[], int],
        needs: Needs,
    ) -> None:
        self._image = image
        self._settings = settings
        self._clock = clock
        self._entropy = entropy
        self._partition_of = partition_of
        self._allocate_id, self._mark_all = needs
        self._memory = Memory()
        self._kind = TransactionKind(self._now)
        self._shards: Shards[TransactionShard] = Shards(
            topic=TOPIC,
            clock=clock,
            log_of=self._record_log,
            made=self._made,
            ensure_topic=ensure_topic,
            partition_count=self._partition_count,
            hosting_version=hosting_version,
        )

    def _record_log(self, index: int) -> RecordLog | None:
        partition = self._partition_of(index)
        return PartitionRecords(partition) if partition is not None else None

    def _made(self, log: RecordLog) -> TransactionShard:
        return TransactionShard(log, self._kind, self._clock, self._entropy, self._memory, self._mark_all)

    def _now(self) -> Now:
        version = Version(level_of(self._image(), TRANSACTION_VERSION))
        return Now(self._clock.now_ms(), self._settings().number("transactional.id.expiration.ms"), version)

    def _partition_count(self) -> int:
        topic = self._image().topics.get(TOPIC)
        return len(topic.partitions) if topic is not None else 0

    # Life

    async def start(self) -> None:
        """Load every partition of __transaction_state that is here."""
        await self._shards.follow()

    async def close(self) -> None:
        """Stop timers and writes; who waits is told."""
        await self._shards.close()

    @property
    def is_settled(self) -> bool:
        """Whether `ensure` has nothing to do."""
        return self._shards.is_settled

    async def ensure(self) -> None:
        """Create and load __transaction_state if it is missing (FindCoordinator)."""
        await self._shards.ensure()

    async def tick(self) -> bool:
        """One bounded piece of upkeep: follow who leads what, forget what is at rest, keep the logs short.  True if it found work."""
        await self._shards.follow()
        done = False
        for shard in self._shards:
            try:
                has_worked = await shard.tick()
            except (HotlogError, OSError) as failure:
                LOG.warning("upkeep of %s is tried again: %s", shard.log.log.name, failure)
                continue
            if has_worked:
                done = True
                await asyncio.sleep(0)
        return done

    # Producers

    async def init_id(
        self,
        transactional_id: str,
        *,
        timeout_ms: int,
        expected: tuple[int, int] | None,
        is_two_phase: bool = False,
        keeps_prepared: bool = False,
    ) -> Initialized:
        """InitProducerId with a transactional id.

        Raises:
            NotServed; Retry: no producer id can be had now.
        """
        if not _is_id(transactional_id):
            return Initialized(TxnCode.INVALID_REQUEST)
        if is_two_phase:  # KIP-939: transaction.two.phase.commit.enable is false
            return Initialized(TxnCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
        if keeps_prepared:
            return Initialized(TxnCode.UNSUPPORTED_VERSION)
        if not 0 < timeout_ms <= self._settings().number("transaction.max.timeout.ms"):
            return Initialized(TxnCode.INVALID_TRANSACTION_TIMEOUT)
        shard = await self._shards.for_writing(transactional_id)

        def event(token: Any, fresh_id: int) -> InitId:
            return InitId(token, timeout_ms, expected, fresh_id)

        answer: Initialized = await self._asked(shard, transactional_id, event)
        return answer

    async def add(
        self, transactional_id: str, producer_id: int, epoch: int, partitions: Iterable[Place], version: Version
    ) -> TxnCode:
        """AddPartitionsToTxn, AddOffsetsToTxn: `partitions` are part of the transaction from now on.

        Raises:
            NotServed
        """
        if not _is_id(transactional_id):
            return TxnCode.INVALID_REQUEST
        shard = self._shards.of(transactional_id)
        if shard.state(transactional_id) is None:
            return TxnCode.INVALID_PRODUCER_ID_MAPPING
        token = shard.token()
        event = AddPartitions(token, producer_id, epoch, frozenset(partitions), version)
        code: TxnCode = await shard.ask(transactional_id, token, event)
        return code

    def verify(self, transactional_id: str, producer_id: int, epoch: int, partitions: Collection[Place]) -> dict[Place, TxnCode]:
        """Whether each of `partitions` is part of the transaction (KIP-890).

        Raises:
            NotServed
        """
        if not _is_id(transactional_id):
            return dict.fromkeys(partitions, TxnCode.INVALID_REQUEST)
        txn = self._shards.of(transactional_id).state(transactional_id)
        return verified(txn or Transaction(transactional_id=transactional_id), producer_id, epoch, partitions)

    async def end(self, transactional_id: str, producer_id: int, epoch: int, *, is_commit: bool, version: Version) -> Ended:
        """EndTxn; answered once the end is decided, while partitions are still told.

        Raises:
            NotServed; Retry: no producer id can be had now.
        """
        if not _is_id(transactional_id):
            return Ended(TxnCode.INVALID_REQUEST)
        shard = self._shards.of(transactional_id)
        if shard.state(transactional_id) is None:
            return Ended(TxnCode.INVALID_PRODUCER_ID_MAPPING)

        def event(token: Any, fresh_id: int) -> End:
            return End(token, producer_id, epoch, is_commit, version, fresh_id)

        answer: Ended = await self._asked(shard, transactional_id, event)
        return answer

    async def _asked(self, shard: TransactionShard, transactional_id: str, event: Callable[[Any, int], Any]) -> Any:
        """What the id answers; with a producer id that was never given if it needs one."""
        token = shard.token()
        answer = await shard.ask(transactional_id, token, event(token, NO_ID))
        if isinstance(answer, NeedsId):
            fresh_id = await self._allocate_id()
            token = shard.token()
            answer = await shard.ask(transactional_id, token, event(token, fresh_id))
        return answer

    # Administration

    def describe(self, transactional_id: str) -> Transaction | None:
        """DescribeTransactions; None if the id is unknown.

        Raises:
            NotServed
        """
        if not self._shards.exist:
            return None
        txn = self._shards.of(transactional_id).state(transactional_id)
        return txn if txn is not None and _is_listed(txn) else None

    def going_on(self) -> dict[int, Transaction]:
        """Transactions that are open or ending, by producer id, as far as they are read."""
        found = (txn for shard in self._shards for txn in shard.states().values())
        return {txn.producer_id: txn for txn in found if txn.partitions}

    async def listed(self) -> list[Transaction]:
        """ListTransactions: every id that is known here, once all that is here is read."""
        if not self._shards.is_settled:
            await self._shards.follow()
        return self.all()

    def all(self) -> list[Transaction]:
        """The same, as far as it is read."""
        return [txn for shard in self._shards for txn in shard.states().values() if _is_listed(txn)]


def _is_listed(txn: Transaction) -> bool:
    is_going = txn.coming is not None and txn.coming.status is Status.DEAD
    return txn.is_known and not is_going


def _is_id(transactional_id: str) -> bool:
    return 0 < len(transactional_id.encode("utf-8", "replace")) <= STRING_BYTES_MAX
