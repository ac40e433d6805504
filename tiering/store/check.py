"""Does this store keep the promises a cluster rests on?  Each promise is tried, and the answer is a value with its reason.

`quick` is what a broker asks at start: the conditional writes and one race of each kind.  The whole run (`hotlog store check`) adds
read-after-write, listings, ranges, deletes and large uploads.

Invariants: everything is written under one fresh prefix and removed again; a store that is away is told apart from one that is wrong
(`CheckReport.reachable`); no promise is taken from documentation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from hotlog.kernel.errors import (
    Corrupt,
    ForeignStore,
    HotlogError,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StoreUnavailable,
)
from hotlog.kernel.limits import KiB, MiB
from hotlog.world.ports import Buffer, Entropy, ObjectStore
from hotlog.world.posix import SystemEntropy
from tiering.store.resilient import ResilientStore, UploadLimits

RACERS = 8
ROUNDS = 2
QUICK_SECONDS_MAX = 10.0  # of one call
DOUBTS_MAX = 5
MULTIPART_LIMITS = UploadLimits(
    single_put_bytes_max=5 * MiB, part_bytes=5 * MiB, parts_in_flight=2
)  # the smallest parts S3 takes
MULTIPART_BYTES = 6 * MiB


class CheckResult(NamedTuple):
    """One promise: kept or not, with what was seen."""

    name: str
    ok: bool
    seen: str


class CheckReport(NamedTuple):
    """All promises that were tried.  `reachable` is False when the store went away before any was broken: then nothing is known."""

    results: tuple[CheckResult, ...]
    reachable: bool

    @property
    def ok(self) -> bool:
        return self.reachable and all(result.ok for result in self.results)

    def require(self) -> None:
        """Raise unless every promise was kept.

        Raises:
            StoreUnavailable: the store could not be asked.
            ForeignStore: it breaks a promise; the message names each.
        """
        broken = "; ".join(f"{result.name}: {result.seen}" for result in self.results if not result.ok)
        if not self.reachable:
            raise StoreUnavailable(f"the object store could not be checked: {broken}")
        if broken:
            raise ForeignStore(f"the object store does not keep what Hotlog needs and is refused: {broken}")


class _Broken(Exception):
    """A promise was not kept; the text says what was seen."""


async def check_store(store: ObjectStore, *, quick: bool = False, entropy: Entropy | None = None) -> CheckReport:
    """Try `store`.  Raises nothing that the store does: it is all in the report."""
    entropy = entropy or SystemEntropy()
    store = store.bind(topic=None, purpose="check")
    if quick and isinstance(store, ResilientStore):
        store = store.within(QUICK_SECONDS_MAX)  # a broker whose store is away serves its hot data soon, not after all retries
    trials = [_Trial(store, f"check/{entropy.uuid().hex}/")]
    results: list[CheckResult] = []
    reachable = True
    for index in range(len(trials[0].promises(quick=quick))):
        result = await _try(trials, index, quick, entropy)
        if isinstance(result, StoreUnavailable):
            reachable = any(not one.ok for one in results)  # a promise that was broken before it went away stays broken
            results.append(CheckResult(trials[0].promises(quick=quick)[index][0], False, str(result)))
            break
        results.append(result)
    if reachable:
        for trial in trials:
            left = await _tidy(trial)
            results.extend(() if quick else left)  # a start is not refused for what a check left behind
    return CheckReport(tuple(results), reachable)


async def _try(trials: list[_Trial], index: int, quick: bool, entropy: Entropy) -> CheckResult | StoreUnavailable:
    """One promise; why, if the store went away.  A conditional write in doubt says nothing: the promise is tried anew elsewhere."""
    for attempt in range(DOUBTS_MAX):
        name, promise = trials[-1].promises(quick=quick)[index]
        try:
            return CheckResult(name, True, await promise())
        except _Broken as broken:
            return CheckResult(name, False, str(broken))
        except StoreUnavailable as away:
            return away
        except OutcomeUnknown as doubt:
            if attempt == DOUBTS_MAX - 1:
                return CheckResult(name, False, f"no clear answer in {DOUBTS_MAX} tries: {doubt}")
            trials.append(_Trial(trials[-1].store, f"check/{entropy.uuid().hex}/"))
        except HotlogError as error:
            return CheckResult(name, False, f"{type(error).__name__}: {error}")
    raise AssertionError("the last attempt returns")


async def _tidy(trial: _Trial) -> tuple[CheckResult, ...]:
    """Remove what the trial wrote; failing to is a result only when it fails."""
    try:
        await trial.remove()
    except HotlogError as error:
        return (CheckResult("clean up", False, f"{trial.prefix} could not be removed: {error}"),)
    return ()


Promise = tuple[str, Callable[[], Awaitable[str]]]


class _Trial:
    """The promises, each a method that returns what it saw or raises _Broken."""

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
        await self.store.delete(sorted(self._written))

    async def write_and_read(self) -> str:
        key, body = self.key("plain"), bytes(range(256)) * 16
        await self.store.put(key, body)
        blob = await self.store.get(key)
        info = await self.store.head(key)
        _expect(bytes(blob.data) == body, "the bytes read are not the bytes written")
        _expect(
            info.size == len(body) == blob.size, f"{len(body)} bytes were written, head says {info.size}, get says {blob.size}"
        )
        _expect(info.etag == blob.etag, f"head says etag {info.etag}, get says {blob.etag}")
        return f"{len(body)} bytes"

    async def create_if_absent(self) -> str:
        key = self.key("absent")
        await self.store.put(key, b"first", if_absent=True)
        if await self._lost(self.store.put(key, b"second", if_absent=True)):
            return "the second writer was refused"
        raise _Broken(
            "an object that exists was overwritten by a write with If-None-Match: *; two brokers would both believe they won"
        )

    async def replace_if_match(self) -> str:
        key = self.key("match")
        first = await self.store.put(key, b"first")
        second = await self.store.put(key, b"second", if_match=first)
        _expect(first != second, "two different contents have one etag; a lost update could not be seen")
        if not await self._lost(self.store.put(key, b"third", if_match=first)):
            raise _Broken("a write with a stale If-Match was accepted; updates would be lost")
        _expect(bytes((await self.store.get(key)).data) == b"second", "a refused write changed the object")
        missing = self.key("never")
        if not await self._lost(self.store.put(missing, b"x", if_match=first)):
            raise _Broken("a write with If-Match to a missing object was accepted")
        return "a stale writer was refused"

    async def race_create(self, rounds: int) -> str:
        for number in range(rounds):
            await self._race(self.key(f"race-create-{number}"), if_absent=True, etag=None)
        return f"{rounds} x {RACERS} writers, one winner each"

    async def race_replace(self, rounds: int) -> str:
        key = self.key("race-replace")
        etag = await self.store.put(key, b"start")
        for _ in range(rounds):
            etag = await self._race(key, if_absent=False, etag=etag)
        return f"{rounds} x {RACERS} writers, one winner each"

    async def _race(self, key: str, *, if_absent: bool, etag: str | None) -> str:
        """RACERS writers at once; the etag of the only winner."""
        # An S3 etag is a hash of the content: a body of an earlier round would leave the etag as it was, and a second writer could win.
        bodies = [f"writer {number} of {key} after {etag}".encode() for number in range(RACERS)]
        outcomes = await asyncio.gather(
            *(self.store.put(key, body, if_absent=if_absent, if_match=etag) for body in bodies), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, PreconditionFailed | OutcomeUnknown | NotFound):
                raise outcome
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        doubtful = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, OutcomeUnknown)]
        _expect(
            len(winners) <= 1,
            f"{len(winners)} of {RACERS} writers were told that they won; conditional writes are not atomic here",
        )
        _expect(bool(winners or doubtful), "no writer won")
        now = await self.store.get(key)
        holder = next((number for number, body in enumerate(bodies) if body == bytes(now.data)), None)
        _expect(
            holder in (winners or doubtful),
            f"writer {winners} was told that it won, but the object holds writer {holder}'s bytes",
        )
        return now.etag

    async def read_after_write(self) -> str:
        key = self.key("rewritten")
        for number in range(8):
            body = f"version {number}".encode()
            await self.store.put(key, body)
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
        raise _Broken("a range beyond the end of the object was answered as if it were whole")

    async def delete(self) -> str:
        key = self.key("deleted")
        await self.store.put(key, b"x")
        await self.store.delete([key, self.key("was-never-there")])
        try:
            await self.store.get(key)
        except NotFound:
            return "deleted objects are gone, missing ones are no error"
        raise _Broken("an object can be read after it was deleted")

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
            raise _Broken("an upload whose source failed was completed")
        if not await self._lost(self.store.head(key)):
            raise _Broken("a failed upload left an object")
        left = [upload.upload_id async for upload in self.store.list_uploads(key)]
        _expect(not left, f"a failed upload left {len(left)} unfinished uploads, which are billed")
        return "neither an object nor parts"

    async def _lost(self, call: Awaitable[Any]) -> bool:
        try:
            await call
        except (PreconditionFailed, NotFound):
            return True
        return False


def _expect(kept: bool, otherwise: str) -> None:
    if not kept:
        raise _Broken(otherwise)


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
        self.seen_early = False

    async def read(self, start: int, end: int) -> Buffer:
        if end == self.size:
            if self._fails:
                raise Corrupt("this source fails on purpose")
            try:
                await self._store.head(self._key)
                self.seen_early = True
            except NotFound:
                pass
        return _pattern(start, end)
