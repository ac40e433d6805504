"""The promises that a cluster rests on, each tried against a real store: what tiering.store.check asks.

A promise is broken by a wrong answer, and by nothing else.  Where an answer is lost, the object is read back, or the same is asked again;
where that does not help, `OutcomeUnknown` or `StoreUnavailable` leaves, and nothing is known.

Invariants: a trial writes under one prefix that nobody else has; what a later look depends on is written under conditions, so that a request
that arrives late (its sender had given it up) changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hotlog.kernel.errors import Corrupt, NotFound, OutcomeUnknown, PreconditionFailed
from hotlog.kernel.limits import KiB, MiB
from hotlog.world.ports import Buffer, ObjectStore
from tiering.store.resilient import ResilientStore, UploadLimits

RACERS = 8
ROUNDS = 2
ASKED_MAX = 8  # times that one thing is asked while its answers are lost
MULTIPART_LIMITS = UploadLimits(
    single_put_bytes_max=5 * MiB, part_bytes=5 * MiB, parts_in_flight=2
)  # the smallest parts S3 takes
MULTIPART_BYTES = 6 * MiB

Promise = tuple[str, Callable[[], Awaitable[str]]]


class Broken(Exception):
    """A promise was not kept; the text says what was seen."""


class Trial:
    """The promises, each a method that returns what it saw, or raises Broken, StoreUnavailable or OutcomeUnknown."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix
        self._written: set[str] = set()

    def promises(self, *, quick: bool) -> Sequence[Promise]:
        return self.quick() if quick else self.all()

    def quick(self) -> Sequence[Promise]:
        return (
            ("write and read", self.write_and_read),
            ("create only if absent", self.create_if_absent),
            ("replace only if unchanged", self.replace_if_match),
            ("one winner among racing creators", lambda: self.race_create(1)),
            ("one winner among racing replacers", lambda: self.race_replace(1)),
        )

    def all(self) -> Sequence[Promise]:
        return (
            *self.quick()[:3],
            ("one winner among racing creators", lambda: self.race_create(ROUNDS)),
            ("one winner among racing replacers", lambda: self.race_replace(ROUNDS)),
            ("a read sees the last write", self.read_after_write),
            ("a listing sees the last write", self.list_after_write),
            ("ranges and tails", self.ranges),
            ("delete", self.delete),
            ("a large upload appears whole or not at all", self.large_upload),
            ("a failed upload leaves nothing", self.failed_upload),
        )

    def key(self, name: str) -> str:
        self._written.add(self.prefix + name)
        return self.prefix + name

    async def remove(self) -> None:
        if self._written:
            await self.store.delete(sorted(self._written))

    # -- conditional writes whose answer may be lost

    async def _written_as(self, key: str, body: bytes, etag: str | None) -> str:
        """Write `body` where nothing is (`etag` None) or over `etag`; the new etag.  A lost answer is resolved by reading back."""
        doubt: OutcomeUnknown | None = None
        for _ in range(ASKED_MAX):
            try:
                return await self.store.put(key, body, if_absent=etag is None, if_match=etag)
            except OutcomeUnknown as unknown:
                doubt = unknown
            except (PreconditionFailed, NotFound) as refused:
                if doubt is None:
                    raise Broken(f"a write that nothing stood against was refused: {refused}") from None
            try:
                now = await self.store.get(key)
            except NotFound:
                continue
            if bytes(now.data) == body:
                return now.etag
        raise doubt or AssertionError("only a doubt goes on to the next try")

    async def _lost(self, call: Callable[[], Awaitable[Any]]) -> bool:
        """Whether `call` is refused; asked again while the answer is lost: it must be refused each time."""
        for asked in range(ASKED_MAX):
            try:
                await call()
            except (PreconditionFailed, NotFound):
                return True
            except OutcomeUnknown:
                if asked == ASKED_MAX - 1:
                    raise
            else:
                return False
        raise AssertionError("the last try returns or raises")

    # -- promises

    async def write_and_read(self) -> str:
        key, body = self.key("plain"), bytes(range(256)) * 16
        await self.store.put(key, body)
        blob, info = await asyncio.gather(self.store.get(key), self.store.head(key))
        _expect(bytes(blob.data) == body, "the bytes read are not the bytes written")
        _expect(
            info.size == len(body) == blob.size, f"{len(body)} bytes were written, head says {info.size}, get says {blob.size}"
        )
        _expect(info.etag == blob.etag, f"head says etag {info.etag}, get says {blob.etag}")
        return f"{len(body)} bytes"

    async def create_if_absent(self) -> str:
        key = self.key("absent")
        await self._written_as(key, b"first", None)
        if await self._lost(lambda: self.store.put(key, b"second", if_absent=True)):
            return "the second writer was refused"
        raise Broken(
            "an object that exists was overwritten by a write with If-None-Match: *; two brokers would both believe they won"
        )

    async def replace_if_match(self) -> str:
        key, missing = self.key("match"), self.key("never")
        first = await self._written_as(key, b"first", None)
        second = await self._written_as(key, b"second", first)
        _expect(first != second, "two different contents have one etag; a lost update could not be seen")
        stale_lost, missing_lost = await asyncio.gather(
            self._lost(lambda: self.store.put(key, b"third", if_match=first)),
            self._lost(lambda: self.store.put(missing, b"x", if_match=first)),
        )
        _expect(stale_lost, "a write with a stale If-Match was accepted; updates would be lost")
        _expect(missing_lost, "a write with If-Match to a missing object was accepted")
        _expect(bytes((await self.store.get(key)).data) == b"second", "a refused write changed the object")
        return "a stale writer was refused"

    async def race_create(self, rounds: int) -> str:
        for number in range(rounds):
            await self._race(self.key(f"race-create-{number}"), None)
        return f"{rounds} x {RACERS} writers, one winner each"

    async def race_replace(self, rounds: int) -> str:
        key = self.key("race-replace")
        etag = await self._written_as(key, b"start", None)
        for _ in range(rounds):
            etag = await self._race(key, etag)
        return f"{rounds} x {RACERS} writers, one winner each"

    async def _race(self, key: str, etag: str | None) -> str:
        """RACERS writers at once, over `etag` or (None) where nothing is; the etag of the only winner."""
        # An S3 etag is a hash of the content: a body of an earlier round would leave the etag as it was, and a second writer could win.
        bodies = [f"writer {number} of {key} after {etag}".encode() for number in range(RACERS)]
        outcomes = await asyncio.gather(
            *(self.store.put(key, body, if_absent=etag is None, if_match=etag) for body in bodies), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, PreconditionFailed | OutcomeUnknown | NotFound):
                raise outcome
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        doubts = {number: outcome for number, outcome in enumerate(outcomes) if isinstance(outcome, OutcomeUnknown)}
        _expect(
            len(winners) <= 1,
            f"{len(winners)} of {RACERS} writers were told that they won; conditional writes are not atomic here",
        )
        _expect(bool(winners or doubts), "no writer won")
        try:
            now = await self.store.get(key)
        except NotFound:
            if not winners:  # none of those in doubt has arrived (yet)
                raise next(iter(doubts.values())) from None
            raise
        holder = next((number for number, body in enumerate(bodies) if body == bytes(now.data)), None)
        if holder is None and not winners:
            raise next(iter(doubts.values()))
        _expect(
            holder in (winners or doubts),
            f"writer {winners} was told that it won, but the object holds writer {holder}'s bytes",
        )
        return now.etag

    async def read_after_write(self) -> str:
        key, etag = self.key("rewritten"), None
        for number in range(8):
            body = f"version {number}".encode()
            etag = await self._written_as(key, body, etag)
            seen = bytes((await self.store.get(key)).data)
            _expect(seen == body, f"after writing {body!r} a read saw {seen!r}")
        return "8 overwrites, each seen at once"

    async def list_after_write(self) -> str:
        keys = [self.key(f"list/{number:03}") for number in (2, 10, 1)]
        for key in keys:
            await self.store.put(key, b"x")
            _expect(key in await self._listed("list/"), f"{key} was written, and a listing does not show it")
        _expect(await self._listed("list/") == sorted(keys), "a listing is not in ascending order of keys")
        after = [info.key async for info in self.store.list(self.prefix + "list/", after=sorted(keys)[0])]
        _expect(after == sorted(keys)[1:], f"a listing after the first key gave {after}")
        await self.store.delete(keys[:1])
        _expect(keys[0] not in await self._listed("list/"), "a deleted object is still listed")
        return "writes and deletes are listed at once, in order"

    async def _listed(self, under: str) -> list[str]:
        return [info.key async for info in self.store.list(self.prefix + under)]

    async def ranges(self) -> str:
        key, body = self.key("ranges"), bytes(number % 251 for number in range(64 * KiB))
        await self.store.put(key, body)
        for start, end in ((0, 1), (1, 4096), (60 * KiB, 64 * KiB), (12345, None)):
            seen = bytes((await self.store.get(key, start, end)).data)
            _expect(seen == body[start:end], f"the range [{start}, {end}) came with {len(seen)} other bytes")
        for length in (1, 100, 1 * MiB):
            seen = bytes((await self.store.get_tail(key, length)).data)
            _expect(seen == body[-length:], f"the last {length} bytes came as {len(seen)} other bytes")
        try:
            await self.store.get(key, 10, len(body) + 1)
        except Corrupt:
            return "ranges, tails, and a range beyond the end is an error"
        raise Broken("a range beyond the end of the object was answered as if it were whole")

    async def delete(self) -> str:
        key = self.key("deleted")
        await self.store.put(key, b"x")
        await self.store.delete([key, self.key("was-never-there")])
        try:
            await self.store.get(key)
        except NotFound:
            return "deleted objects are gone, missing ones are no error"
        raise Broken("an object can be read after it was deleted")

    async def large_upload(self) -> str:
        key, store = self.key("large"), _in_parts(self.store)
        source = _WatchedSource(self.store, key)
        await store.put_source(key, source)
        _expect(not source.seen_early, "the object could be seen before its upload was complete")
        tail = await self.store.get(key, MULTIPART_BYTES - 4096)
        _expect(
            bytes(tail.data) == _pattern(MULTIPART_BYTES - 4096, MULTIPART_BYTES), "an upload in parts came out with other bytes"
        )
        return f"{MULTIPART_BYTES // MiB} MiB in parts"

    async def failed_upload(self) -> str:
        key, store = self.key("failed"), _in_parts(self.store)
        try:
            await store.put_source(key, _WatchedSource(self.store, key, fails=True))
        except Corrupt:
            pass
        else:
            raise Broken("an upload whose source failed was completed")
        if not await self._lost(lambda: self.store.head(key)):
            raise Broken("a failed upload left an object")
        for upload in [upload async for upload in self.store.list_uploads(key)]:
            await self.store.abort_upload(upload)  # whose abort was lost: that is done once, as a store may be away by then
        left = [upload.upload_id async for upload in self.store.list_uploads(key)]
        _expect(not left, f"{len(left)} unfinished uploads are left though they were aborted; they are billed")
        return "neither an object nor parts"


def _expect(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Broken(otherwise)


def _in_parts(store: ObjectStore) -> ObjectStore:
    """The store, made to upload in parts earlier than it would; forms without parts stay as they are."""
    return store.limited(MULTIPART_LIMITS) if isinstance(store, ResilientStore) else store


def _pattern(start: int, end: int) -> bytes:
    block = bytes(range(256)) * ((end - start) // 256 + 2)
    return block[start % 256 : start % 256 + end - start]


class _WatchedSource:
    """Bytes that look, while they are read, whether the object can already be seen."""

    size = MULTIPART_BYTES

    def __init__(self, store: ObjectStore, key: str, *, fails: bool = False) -> None:
        self._store = store
        self._key = key
        self._fails = fails
        self._has_ended = False  # from then on the upload may be complete, and be made again because the answer was lost
        self.seen_early = False

    async def read(self, start: int, end: int) -> Buffer:
        if end == self.size:
            if self._fails:
                raise Corrupt("this source fails on purpose")
            if not self._has_ended:
                with contextlib.suppress(NotFound):
                    await self._store.head(self._key)
                    self.seen_early = True
            self._has_ended = True
        return _pattern(start, end)
