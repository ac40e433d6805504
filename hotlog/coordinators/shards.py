"""The shards of one kind of coordinator on this node: one for each partition of its topic that is here.

What is coordinated (a group, a transactional id) belongs to one partition, found by its name.

Invariants: a partition is read once as long as its log stays the same, and again when it is another (reopened, begun anew); one that cannot
be read is not served and is tried again, and the others are served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from hotlog.coordinators.record_log import RecordLog
from hotlog.coordinators.shard import Shard
from hotlog.coordinators.tenure import Loading, NotCoordinator, NotServed
from hotlog.kernel.errors import HotlogError
from hotlog.world.ports import Clock

LOG = logging.getLogger(__name__)
KNOWN_MAX, KNOWN_CHARS_MAX = 8192, 200  # hash codes of names that are kept; 4 MB at most
AGAIN_S, AGAIN_S_MAX = 5.0, 300.0  # after a partition could not be read, the same log is read once more

T = TypeVar("T", bound=Shard[Any, Any, Any])


class _Broken(NamedTuple):
    """A partition that could not be read, and when (monotonic) it is read again."""

    log: RecordLog
    wait_s: float
    again_at: float


class Shards(Generic[T]):
    """`log_of` gives a partition's log if this node leads it, `made` a shard on it; `hosting_version` goes up whenever a log that this node
    hosts is opened or given up; the other callables reach the broker."""

    def __init__(
        self,
        *,
        topic: str,
        clock: Clock,
        log_of: Callable[[int], RecordLog | None],
        made: Callable[[RecordLog], T],
        ensure_topic: Callable[[], Awaitable[None]],
        partition_count: Callable[[], int],
        hosting_version: Callable[[], int],
    ) -> None:
        self._hosting_version = hosting_version
        self._topic = topic
        self._clock = clock
        self._log_of = log_of
        self._made = made
        self._ensure_topic = ensure_topic
        self._partition_count = partition_count
        self._shards: dict[int, T] = {}
        self._broken: dict[int, _Broken] = {}
        self._electing: dict[int, T] = {}
        self._one_at_a_time = asyncio.Lock()
        self._settled_at = -1  # the hosting at which all partitions were served

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._shards.values()))

    @property
    def exist(self) -> bool:
        """Whether the topic exists at all."""
        return self._partition_count() > 0

    # Life

    async def follow(self) -> None:
        """Resign from partitions that are not here any more or are another log, and be elected for those that are here; repeatable."""
        async with self._one_at_a_time:
            count, version = self._partition_count(), self._hosting_version()
            for index in [index for index in self._shards if index >= count]:
                self.resign(index)
            for index in range(count):
                log = self._log_of(index)
                shard = self._shards.get(index)
                if shard is not None and shard.log.log != log:
                    self.resign(index)
                    shard = None
                if shard is None and log is not None and self._may_try(index, log):
                    await self._elect(index, log)
            self._settled_at = version if 0 < count == len(self._shards) else -1

    def _may_try(self, index: int, log: RecordLog) -> bool:
        broken = self._broken.get(index)
        return broken is None or broken.log != log or broken.again_at <= self._clock.monotonic()

    async def _elect(self, index: int, log: RecordLog) -> None:
        shard = self._electing[index] = self._made(log)
        try:
            await shard.elected()
        except NotCoordinator:
            return
        except (HotlogError, OSError):
            shard.resigned()
            before = self._broken.get(index)
            wait_s = min(before.wait_s * 2, AGAIN_S_MAX) if before is not None and before.log == log else AGAIN_S
            self._broken[index] = _Broken(log, wait_s, self._clock.monotonic() + wait_s)
            LOG.exception("%s cannot be read and is not served", log.name)
            return
        finally:
            del self._electing[index]
        self._broken.pop(index, None)
        self._shards[index] = shard

    def resign(self, index: int) -> None:
        """This node coordinates the partition no more, until `follow` finds it here again."""
        self._settled_at = -1
        for shards in (self._shards, self._electing):
            shard = shards.get(index)
            if shard is not None:
                shard.resigned()
        self._shards.pop(index, None)
        self._broken.pop(index, None)

    async def close(self) -> None:
        """Resign from all; what was being written has ended."""
        closed = [*self._shards.values(), *self._electing.values()]
        for index in [*self._shards, *self._electing]:
            self.resign(index)
        for shard in closed:
            await shard.settled()

    # Use

    @property
    def is_settled(self) -> bool:
        """Whether `ensure` has nothing to do: every partition is served, and nothing has come or gone since that was seen."""
        return self._settled_at == self._hosting_version()

    async def ensure(self) -> None:
        """Create the topic if it is missing, have it open here, and follow."""
        if self.is_settled:
            return
        await self._ensure_topic()
        await self.follow()

    def index_of(self, owner: str) -> int:
        """The owner's partition.

        Raises:
            NotServed: the topic does not exist.
        """
        count = self._partition_count()
        if count == 0:
            raise NotServed(f"{self._topic} does not exist yet; ask for the coordinator first")
        return partition_for(owner, count)

    def get(self, owner: str) -> T | None:
        """The shard of the owner's partition, if it is here and was read."""
        count = self._partition_count()
        return self._shards.get(partition_for(owner, count)) if count else None

    def at(self, index: int) -> T:
        """The shard of a partition.

        Raises:
            NotCoordinator: it is not here, or not read yet.
        """
        shard = self._shards.get(index)
        if shard is None:
            raise NotCoordinator(f"{self._topic}-{index} is not here, or not read yet")
        return shard

    def of(self, owner: str) -> T:
        """The shard of the owner's partition.

        Raises:
            NotServed: there is no topic yet, or the partition cannot be read; Loading: not read yet; NotCoordinator: it is not here.
        """
        index = self.index_of(owner)
        shard = self._shards.get(index)
        if shard is not None:
            return shard
        name = f"{self._topic}-{index}, which holds {owner!r},"
        if index in self._broken:
            raise NotServed(f"{name} cannot be read")
        if self._log_of(index) is None:
            raise NotCoordinator(f"{name} is not here")
        raise Loading(f"{name} is not loaded yet")

    async def for_writing(self, owner: str) -> T:
        """The same; what is missing is created and read first."""
        try:
            return self.of(owner)
        except NotServed:
            await self.ensure()
            return self.of(owner)


def partition_for(owner: str, count: int) -> int:
    """The partition of a coordinator's topic that keeps `owner`: Java's String.hashCode, made positive, modulo `count`."""
    code = _known_code(owner) if len(owner) <= KNOWN_CHARS_MAX else _code(owner)
    return (0 if code == -(1 << 31) else abs(code)) % count


def _code(owner: str) -> int:
    """Java's String.hashCode."""
    code = 0
    raw = owner.encode("utf-16-be", "surrogatepass")
    for high, low in zip(raw[::2], raw[1::2], strict=True):
        code = (31 * code + (high << 8 | low)) & 0xFFFFFFFF
    return code - (1 << 32) if code >= 1 << 31 else code


_known_code = lru_cache(maxsize=KNOWN_MAX)(_code)  # the few thousand that are active are asked for all the time
