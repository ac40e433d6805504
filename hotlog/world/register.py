"""A compare-and-swap register over one object: the single way a manifest root or the metadata head changes.

The value is opaque bytes whose codec carries the writer's nonce, so that a conditional write whose response was lost can be recognised
as one's own by reading back (docs/faults.md, rows 26 and 27).

Invariants: a value is only ever replaced by a conditional PUT; `commit` returns only when the new value is known to be in the store, and
raises Fenced, PreconditionFailed (give up) or StoreUnavailable/OutcomeUnknown when it is not known.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from hotlog.kernel.errors import NotFound, OutcomeUnknown, PreconditionFailed, StoreUnavailable
from hotlog.world.ports import ObjectStore

V = TypeVar("V")
ATTEMPTS_MAX = 8
NONCES_KEPT = 16


class Codec(Protocol[V]):
    """How a value becomes bytes.

    `nonces_of` returns the nonces of the writes that led to this value, newest first: the one that made it and a bounded run of
    those before (NONCES_KEPT), so that an own write is recognised even when another writer came after it.
    """

    def encode(self, value: V) -> bytes: ...

    def decode(self, raw: bytes) -> V: ...

    def nonces_of(self, value: V) -> tuple[str, ...]: ...


class Version(NamedTuple, Generic[V]):
    """A value and the etag it had; etag None means that the object does not exist yet."""

    value: V | None
    etag: str | None
    digest: bytes = b""  # of the bytes that the value was decoded from, or encoded to


class Register(Generic[V]):
    """One register.  Not shared between concurrent writers in one process: `commit` serialises by a lock."""

    def __init__(self, store: ObjectStore, key: str, codec: Codec[V]) -> None:
        self.key = key
        self._store = store
        self._codec = codec
        self._lock = asyncio.Lock()
        self._current: Version[V] | None = None

    @property
    def current(self) -> Version[V] | None:
        """What was last read or written here; None before the first load."""
        return self._current

    async def load(self) -> Version[V]:
        """Read the register from the store."""
        try:
            blob = await self._store.get(self.key)
        except NotFound:
            self._current = Version(None, None)
        else:
            self._current = self._version_of(bytes(blob.data), blob.etag)
        return self._current

    def _version_of(self, raw: bytes, etag: str) -> Version[V]:
        """`raw` decoded, unless it is what was read or written here last: most registers are the same whenever they are looked at."""
        digest, known = _digest_of(raw), self._current
        if known is not None and known.digest == digest:
            return known._replace(etag=etag)
        return Version(self._codec.decode(raw), etag, digest)

    def assume_absent(self) -> None:
        """Begin the first commit as if `load` had found nothing; if that is wrong, the commit finds out."""
        self._current = self._current or Version(None, None)

    async def commit(self, edit: Callable[[V | None], V | None]) -> V:
        """Apply `edit` (pure: old value -> new value, or None to leave it) until it is in the store; return the value then.

        `edit` is called again on the newest value after a lost race; it raises to give up (Fenced, Invalid ...).
        Each call of `edit` must build a value with a fresh nonce.
        """
        async with self._lock:
            for attempt in range(ATTEMPTS_MAX):
                before = self._current if self._current is not None and attempt == 0 else await self.load()
                after = edit(before.value)
                if after is None:
                    if before.value is None:
                        raise NotFound(f"register {self.key} does not exist and the edit left it so")
                    return before.value
                done = await self._swap(before, after)
                if done is not None:
                    return done
            raise PreconditionFailed(f"register {self.key}: lost {ATTEMPTS_MAX} races in a row")

    async def _swap(self, before: Version[V], after: V) -> V | None:
        """One conditional write; the value if it is in, None if another writer was first."""
        body = self._codec.encode(after)
        try:
            if before.etag is None:
                etag = await self._store.put(self.key, body, if_absent=True)
            else:
                etag = await self._store.put(self.key, body, if_match=before.etag)
        except (PreconditionFailed, OutcomeUnknown, NotFound) as doubt:
            return await self._read_back(after, doubt)
        except StoreUnavailable:
            self._current = None  # nothing is known to have happened; the next commit reads first
            raise
        self._current = Version(after, etag, _digest_of(body))
        return after

    async def _read_back(self, after: V, doubt: Exception) -> V | None:
        """Whether the write in doubt is ours: the nonce tells."""
        try:
            now = await self.load()
        except StoreUnavailable:
            self._current = None
            raise OutcomeUnknown(f"register {self.key}: a write is in doubt and cannot be read back: {doubt}") from doubt
        if now.value is not None and self._codec.nonces_of(after)[0] in self._codec.nonces_of(now.value):
            return now.value
        return None


def _digest_of(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()
