"""The outside on one page: Clock, Disk, Network, ObjectStore, Entropy, gathered in World.

Everything the broker, uploader and workers do to the outside passes here, so that a simulator can supply all of it (the asyncio
loop supplies timers).  Real forms: hotlog.world.posix (Clock, Disk, Entropy), hotlog.world.network, tiering.store (ObjectStore).

Invariants: no code above asks which form it was given; each port has one contract test suite run against every form.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, NamedTuple, ParamSpec, Protocol, TypeVar
from uuid import UUID

P = ParamSpec("P")
T = TypeVar("T")
AnyProtocol = TypeVar("AnyProtocol", bound=asyncio.BaseProtocol)
Buffer = bytes | bytearray | memoryview
LISTEN_BACKLOG = 4096  # connections that came and were not accepted yet


class Clock(Protocol):
    """Wall time for data (timestamps, retention), monotonic time for timers."""

    def now_ms(self) -> int:
        """Wall clock, ms since the Unix epoch.  May step; never used for safety."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class Entropy(Protocol):
    """Randomness, seedable: the simulator replays it."""

    def uuid(self) -> UUID: ...

    def uniform(self, low: float, high: float) -> float: ...

    def bytes(self, count: int) -> bytes: ...


class File(Protocol):
    """An open file.  Offsets and sizes in bytes.  OSError as the operating system raises it (ENOSPC, EIO)."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes written so far (kept in memory; no stat call)."""
        ...

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end with one gathered write; return the bytes written.

        A short or failed write is cut back to the old size before the OSError leaves, so that the file never keeps half of it.
        """
        ...

    def write_at(self, offset: int, data: Buffer) -> None: ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; shorter only at the end of the file."""
        ...

    def read_at_nowait(self, offset: int, length: int) -> Buffer | None:
        """The same from the page cache only (preadv2 RWF_NOWAIT); None if it would touch the device."""
        ...

    def read_once(self, offset: int, length: int) -> Buffer:
        """As `read_at`, for who reads all of a large file and will not come back: what was not in the page cache is not left there."""
        ...

    def sync(self) -> None:
        """fdatasync: what was appended before survives power loss."""
        ...

    def truncate(self, size: int) -> None: ...

    def close(self) -> None: ...

    def fileno(self) -> int | None:
        """For sendfile; None where there is no descriptor (simulator)."""
        ...


SyncTold = Callable[[Exception | None], object]
"""Called on the loop when a sync is done, with its error if it failed."""
Due = tuple[File, SyncTold]
"""A file to be synced, and who is told."""


class Streamed(Protocol):
    """Bytes that are read while they are sent; their number is known before."""

    def __len__(self) -> int: ...

    def read_now(self, start: int, length: int) -> Buffer | None:
        """Bytes [start, start + length) without waiting; None where that is impossible. Raises OSError."""
        ...

    async def read(self, start: int, length: int) -> Buffer:
        """The same, waited for. Raises StorageFailed."""
        ...

    def close(self) -> None:
        """Let go of what is behind it."""
        ...


class Disk(Protocol):
    """A file system below absolute or relative string paths.  Blocking calls; use `run` to leave the event loop."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        """Raises FileNotFoundError if missing and not `create`.  Never follows a symbolic link at the last element."""
        ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def modified_ms(self, path: str) -> int: ...

    def listdir(self, path: str) -> list[str]:
        """Names, sorted."""
        ...

    def make_dirs(self, path: str) -> None:
        """Create `path` and its parents; their names are on the device when this returns, even if a process that was killed made them."""
        ...

    def read(self, path: str) -> bytes: ...

    def write_atomic(self, path: str, data: Buffer) -> None:
        """Temporary file, fsync, rename over `path`, fsync of the directory: old or new content, never a mix."""
        ...

    def rename(self, source: str, target: str) -> None: ...

    def remove(self, path: str) -> None:
        """Remove a file; no error if it is already gone."""
        ...

    def remove_tree(self, path: str) -> None: ...

    def sync_dir(self, path: str) -> None: ...

    def free_bytes(self, path: str) -> int:
        """What may still be written to the volume of `path`."""
        ...

    def total_bytes(self, path: str) -> int:
        """The size of the volume of `path`."""
        ...

    def descriptors_max(self) -> int:
        """How many files this process may have open, sockets included (RLIMIT_NOFILE)."""
        ...

    def lock(self, path: str) -> File:
        """Create `path` and hold it exclusively until the returned file is closed (flock).  BlockingIOError if it is held."""
        ...

    def begin_syncs(self, syncs: Sequence[Due]) -> None:
        """Begin to sync each file, as `File.sync` does but without waiting: on the loop, many at once.

        What was written to a file before this call survives power loss once it is told None.  It stays open until it is told.
        """
        ...

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function off the event loop (a small thread pool; the simulator decides when it completes)."""
        ...


class Listening(Protocol):
    """An address that somebody listens on."""

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) really bound."""
        ...

    def close(self) -> None:
        """Accept nobody more; connections that were accepted go on."""
        ...

    async def wait_closed(self) -> None: ...


class Network(Protocol):
    """Streams of bytes between processes, in asyncio's own terms: a protocol is made for each connection and is given its transport.

    A transport does at least: write, close, abort, is_closing, pause_reading, resume_reading, set_write_buffer_limits,
    get_write_buffer_size, and get_extra_info of "peername" and "sockname"; "socket" and "sslcontext" may be None.  A BufferedProtocol
    is received into directly.  What a peer sees of an abort is an error or an end, sooner or later.
    """

    async def listen(
        self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int, *, backlog: int = LISTEN_BACKLOG
    ) -> Listening:
        """Listen on an address; port 0 chooses one.  OSError if it cannot be bound."""
        ...

    async def connect(self, make: Callable[[], AnyProtocol], host: str, port: int) -> AnyProtocol:
        """The protocol of a new connection.  OSError: nobody listens there (ConnectionRefusedError), or nothing answers; that can take
        minutes, so have a deadline around it."""
        ...


class ObjectInfo(NamedTuple):
    """One object in a listing.  `modified_ms` is the store's clock, ms since the epoch: for reports, never for safety."""

    key: str
    size: int
    etag: str
    modified_ms: int


class Blob(NamedTuple):
    """Bytes of a ranged read, with the object's etag and whole size in bytes."""

    data: Buffer
    etag: str
    size: int


class PendingUpload(NamedTuple):
    """An unfinished multipart upload."""

    key: str
    upload_id: str
    started_ms: int


class ByteSource(Protocol):
    """Bytes of known size that are read in pieces, so that an upload never holds a segment in memory."""

    @property
    def size(self) -> int: ...

    async def read(self, start: int, end: int) -> Buffer:
        """Exactly the bytes [start, end)."""
        ...


Purpose = Literal[
    "upload", "manifest", "fetch", "readahead", "replay", "export", "retention", "reconcile", "meta", "check", "compaction",
    "scrub", "cost", "other",
]  # fmt: skip


STANDARD = "STANDARD"  # the class of objects for which none is given


class ObjectStore(Protocol):
    """An object store with conditional writes.  Keys are relative to the store's prefix and use "/".

    Errors: NotFound (get, head; put with if_match on a missing key), PreconditionFailed (conditional put lost),
    OutcomeUnknown (a conditional put whose response was lost: read back), StoreUnavailable (nothing happened, or an
    unconditional call that may be repeated), Corrupt (short or wrong range).  A failed put never leaves a part visible.
    """

    async def put(
        self, key: str, body: Buffer, *, if_match: str | None = None, if_absent: bool = False, storage_class: str = STANDARD
    ) -> str:
        """Write a small object whole; return its etag.  At most one of `if_match` (an etag) and `if_absent`.

        `storage_class`: by the store's own name ("GLACIER_IR"); a store without classes takes any for STANDARD.
        """
        ...

    async def put_source(self, key: str, source: ByteSource, *, storage_class: str = STANDARD) -> str:
        """Write a large object from `source`, one PUT or multipart as size demands; return its etag."""
        ...

    async def get(self, key: str, start: int = 0, end: int | None = None) -> Blob:
        """Bytes [start, end) of the object (to its end if None); a range beyond the end is Corrupt."""
        ...

    async def get_tail(self, key: str, length: int) -> Blob:
        """The last `length` bytes (fewer if the object is shorter)."""
        ...

    async def head(self, key: str) -> ObjectInfo: ...

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects whose key starts with `prefix` and sorts after `after`, ascending."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete; missing keys are no error."""
        ...

    def list_uploads(self, prefix: str) -> AsyncIterator[PendingUpload]: ...

    async def abort_upload(self, upload: PendingUpload) -> None: ...

    def bind(self, *, topic: str | None = None, purpose: Purpose | None = None) -> ObjectStore:
        """A view of the same store whose calls are metered under `topic` and `purpose`."""
        ...

    async def close(self) -> None: ...


class World(NamedTuple):
    """Everything outside, handed in once by the composition root."""

    clock: Clock
    disk: Disk
    network: Network
    store: ObjectStore
    entropy: Entropy
