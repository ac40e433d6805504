"""Deadlines and retries around any store: an attempt deadline, a total deadline, full-jitter backoff.

What may be repeated is repeated: reads, listings, deletes, and puts without a condition (an object's key carries a nonce, so the same
bytes go to the same place).  A conditional put is repeated only when the store said that it did nothing (StoreUnavailable); when that is
not known it leaves as OutcomeUnknown, and so does a lost precondition after an attempt that failed, since that attempt may have been
the winner.  The caller reads back (hotlog.world.register).

Deadlines grow with the bytes that are moved, at BYTES_PER_SECOND_MIN: a large upload over a slow line ends, a trickle does not hold a
caller for ever.

Invariants: no call outlives its total deadline by more than the clock's grain; waits go through asyncio.sleep and jitter through Entropy,
so a virtual-time run replays; cancellation passes through at once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from hotlog.kernel.errors import NotFound, OutcomeUnknown, PreconditionFailed, StoreRefused, StoreUnavailable
from hotlog.kernel.limits import MiB
from hotlog.world.ports import STANDARD, Blob, Buffer, ByteSource, Clock, Entropy, ObjectInfo, ObjectStore, PendingUpload, Purpose
from tiering.store.health import StoreHealth

T = TypeVar("T")
BYTES_PER_SECOND_MIN = 1 * MiB
LIST_PAGE = 1000  # what adapters ask for with one request


class UploadLimits(NamedTuple):
    """When and how a large object goes in parts: bytes, and how many parts of one object are sent at once."""

    single_put_bytes_max: int = 64 * MiB
    part_bytes: int = 64 * MiB
    parts_in_flight: int = 4


class Policy(NamedTuple):
    """Seconds.  The wait before attempt n + 1 is uniform in [0, min(pause_max, pause_base * 2**n)] (full jitter)."""

    attempt: float = 30.0
    total: float = 120.0
    pause_base: float = 0.1
    pause_max: float = 10.0

    def extended(self, moved: int) -> Policy:
        """The policy for a call that moves `moved` bytes."""
        extra = moved / BYTES_PER_SECOND_MIN
        return self._replace(attempt=self.attempt + extra, total=self.total + extra)


class Retrier:
    """Runs calls under a policy.  Stateless between calls."""

    def __init__(self, policy: Policy, clock: Clock, entropy: Entropy, health: StoreHealth | None = None) -> None:
        self.policy = policy
        self._clock = clock
        self._entropy = entropy
        self._health = health or StoreHealth(clock)  # hears of every attempt

    def within(self, seconds: float) -> Retrier:
        """The same with shorter deadlines."""
        policy = self.policy
        shorter = policy._replace(attempt=min(policy.attempt, seconds), total=min(policy.total, seconds))
        return Retrier(shorter, self._clock, self._entropy, self._health)

    async def run(self, what: str, call: Callable[[], Awaitable[T]], *, moved: int = 0, conditional: bool = False) -> T:
        """`call()` until it succeeds, fails for good, or time is up.  `what` names it in messages.

        Raises:
            StoreUnavailable: not done in time; for a conditional call: and nothing happened.
            OutcomeUnknown: a conditional call that may have happened.
        """
        policy = self.policy.extended(moved)
        ends = self._clock.monotonic() + policy.total
        last: StoreUnavailable | None = None
        for attempt in itertools.count(1):
            seconds = max(0.0, min(policy.attempt, ends - self._clock.monotonic()))
            try:
                return await self._attempt(what, call, seconds, conditional=conditional, repeated=last is not None)
            except StoreRefused:
                raise
            except StoreUnavailable as away:
                if last is not None and isinstance(away.__cause__, TimeoutError) and seconds < policy.attempt:
                    raise last from away  # the last attempt had no fair chance; what failed before says more
                last, pause = away, self._pause(policy, attempt)
                if self._clock.monotonic() + pause >= ends:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("attempts have no end")

    def _pause(self, policy: Policy, attempt: int) -> float:
        return self._entropy.uniform(0.0, min(policy.pause_max, policy.pause_base * 2 ** min(attempt, 30)))

    async def _attempt(
        self, what: str, call: Callable[[], Awaitable[T]], seconds: float, *, conditional: bool, repeated: bool
    ) -> T:
        try:
            return await self._heard(what, call, seconds)
        except TimeoutError as late:
            message = f"{what}: no answer from the store in {seconds:.1f} s"
            if conditional:
                raise OutcomeUnknown(message) from late
            raise StoreUnavailable(message) from late
        except (PreconditionFailed, NotFound) as lost:
            if conditional and repeated:
                raise OutcomeUnknown(f"{what}: refused after an attempt that failed, which may have been done: {lost}") from lost
            raise
        except OutcomeUnknown:
            # The caller reads back and tries again: pace it here, so that a store in trouble is not asked in a tight loop.
            await asyncio.sleep(self._entropy.uniform(0.0, self.policy.pause_base))
            raise

    async def _heard(self, what: str, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        """`call`, and its outcome told to the store's health."""
        began = self._clock.monotonic()
        error: BaseException | None = None
        try:
            async with asyncio.timeout(seconds):
                return await call()
        except TimeoutError:
            error = StoreUnavailable(f"{what}: no answer in {seconds:.1f} s")
            raise
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._health.saw(error, began=began)


@runtime_checkable
class InParts(Protocol):
    """A form of store that uploads large objects in parts."""

    def limited(self, limits: UploadLimits) -> ObjectStore: ...


class ResilientStore:
    """Any ObjectStore, with deadlines and retries."""

    def __init__(self, store: ObjectStore, retrier: Retrier) -> None:
        self._store = store
        self._retrier = retrier

    def bind(self, *, topic: str | None = None, purpose: Purpose | None = None) -> ResilientStore:
        return ResilientStore(self._store.bind(topic=topic, purpose=purpose), self._retrier)

    def limited(self, limits: UploadLimits) -> ResilientStore:
        """A view that uploads in parts by other limits; the same where the form has no parts."""
        inner = self._store
        return ResilientStore(inner.limited(limits), self._retrier) if isinstance(inner, InParts) else self

    def within(self, seconds: float) -> ResilientStore:
        """A view whose calls give up after `seconds` at the latest (longer by what their bytes need)."""
        return ResilientStore(self._store, self._retrier.within(seconds))

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        return await self._retrier.run(
            f"put {key}",
            lambda: self._store.put(key, body, if_match=if_match, if_absent=if_absent, storage_class=storage_class),
            moved=memoryview(body).nbytes,
            conditional=if_absent or if_match is not None,
        )

    async def put_source(self, key: str, source: ByteSource, *, storage_class: str = STANDARD) -> str:
        return await self._retrier.run(
            f"put {key}", lambda: self._store.put_source(key, source, storage_class=storage_class), moved=source.size
        )

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        moved = 0 if end is None else end - start
        return await self._retrier.run(f"get {key}", lambda: self._store.get(key, start, end), moved=moved)

    async def get_tail(self, key: str, length: int) -> Blob:
        return await self._retrier.run(f"get {key}", lambda: self._store.get_tail(key, length), moved=length)

    async def head(self, key: str) -> ObjectInfo:
        return await self._retrier.run(f"head {key}", lambda: self._store.head(key))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Page by page, so that a page that fails is asked for again after the last key that was given."""
        while True:
            page = await self._retrier.run(f"list {prefix}", lambda last=after: self._page(prefix, last))  # type: ignore[misc]
            for info in page:
                yield info
            if len(page) < LIST_PAGE:
                return
            after = page[-1].key

    async def _page(self, prefix: str, after: str) -> tuple[ObjectInfo, ...]:
        found = []
        async for info in self._store.list(prefix, after=after):
            found.append(info)
            if len(found) == LIST_PAGE:
                break  # before the adapter asks for the next page
        return tuple(found)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._retrier.run(f"delete {len(keys)} objects", lambda: self._store.delete(keys))

    async def list_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]:
        for upload in await self._retrier.run(f"list uploads {prefix}", lambda: _gather(self._store.list_uploads(prefix))):
            yield upload

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self._retrier.run(f"abort upload of {upload.key}", lambda: self._store.abort_upload(upload))

    async def close(self) -> None:
        await self._store.close()


async def _gather(pages: AsyncIterator[PendingUpload]) -> tuple[PendingUpload, ...]:
    return tuple([upload async for upload in pages])
