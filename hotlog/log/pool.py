"""Open files and index bytes, kept while they are used: few descriptors and bounded memory for thousands of logs.

Called from the event loop and from disk threads, hence the locks.

Invariants: a file is never closed while a reader holds it or a writer has it pinned; at most `open_max` files are open beyond those;
index bytes stay below their bound.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple, Protocol

from cachetools import LRUCache

from hotlog.kernel.limits import MiB
from hotlog.world.ports import Buffer, Disk, File

OPEN_FILES_MAX = 512
INDEX_BYTES_MAX = 64 * MiB


class Named(Protocol):
    """A file by its name, which may change in `FilePool.move` only (hotlog.log.segment.Segment)."""

    @property
    def log_path(self) -> str: ...


class Movable(Named, Protocol):
    """A file that can be renamed."""

    @property
    def log_path(self) -> str: ...

    @log_path.setter
    def log_path(self, path: str) -> None: ...


class Name(NamedTuple):
    """A name that does not change."""

    log_path: str


class Held:
    """An open file and who uses it."""

    __slots__ = ("condemned", "file", "users")

    def __init__(self, file: File) -> None:
        self.file = file
        self.users = 0
        self.condemned = False


class FilePool:
    """Open files by path; of those that are not pinned the least recently used is closed first."""

    def __init__(self, disk: Disk, open_max: int = OPEN_FILES_MAX) -> None:
        self.disk = disk
        self._open_max = open_max
        self._idle: OrderedDict[str, Held] = OrderedDict()
        self._pinned: dict[str, Held] = {}
        self._lock = threading.Lock()

    @property
    def pinned_count(self) -> int:
        """Files that are open for writing."""
        return len(self._pinned)

    def acquire(self, named: Named) -> Held:
        """The file of that name; it stays open until `release`.  Raises OSError from open."""
        with self._lock:
            path = named.log_path
            held = self._pinned.get(path)
            if held is None:
                held = self._idle.get(path)
                if held is None:
                    held = self._idle[path] = Held(self.disk.open(path, read_only=True))
                    held.users += 1
                    self._trim()
                    return held
                self._idle.move_to_end(path)
            held.users += 1
            return held

    def read_now(self, named: Named, offset: int, length: int) -> Buffer | None:
        """`File.read_at_nowait` of the file of that name, held no longer than that.  Raises OSError."""
        with self._lock:
            path = named.log_path
            held = self._pinned.get(path)
            if held is None:
                held = self._idle.get(path)
                if held is not None:
                    self._idle.move_to_end(path)
            if held is not None:
                return held.file.read_at_nowait(offset, length)
        held = self.acquire(named)
        try:
            return held.file.read_at_nowait(offset, length)
        finally:
            self.release(held)

    def move(self, named: Movable, path: str) -> None:
        """Rename a file that nobody writes to `path`: who holds it, and who asks for it by `named`, does not notice.  Raises OSError."""
        with self._lock:
            self.disk.rename(named.log_path, path)
            before, held = self._idle.pop(path, None), self._idle.pop(named.log_path, None)
            if before is not None:
                self._condemn(before)
            if held is not None:
                self._idle[path] = held
            named.log_path = path

    def release(self, held: Held) -> None:
        with self._lock:
            held.users -= 1
            if held.condemned and held.users == 0:
                held.file.close()

    def pin(self, path: str, *, create: bool = False) -> File:
        """Open `path` for writing and keep it open until `unpin`.  Raises OSError from open."""
        with self._lock:
            held = self._pinned.get(path)
            if held is None:
                old = self._idle.pop(path, None)
                held = self._pinned[path] = Held(self.disk.open(path, create=create))
                if old is not None:
                    self._condemn(old)
            return held.file

    def unpin(self, path: str) -> None:
        """The writer is done: the file may be closed once nobody reads it."""
        with self._lock:
            held = self._pinned.pop(path, None)
            if held is not None:
                self._idle[path] = held
                self._trim()

    def forget(self, path: str) -> None:
        """The file is gone or was replaced: the next reader opens anew."""
        with self._lock:
            for table in (self._idle, self._pinned):
                held = table.pop(path, None)
                if held is not None:
                    self._condemn(held)

    def close(self) -> None:
        with self._lock:
            for table in (self._idle, self._pinned):
                while table:
                    self._condemn(table.popitem()[1])

    def _trim(self) -> None:
        while len(self._idle) > self._open_max:
            self._condemn(self._idle.popitem(last=False)[1])

    def _condemn(self, held: Held) -> None:
        held.condemned = True
        if held.users == 0:
            held.file.close()


IndexKey = tuple[object, str]  # a segment as it is now, and the file's suffix: another segment may get the same path


class IndexCache:
    """Index files (or the part written so far) of segments, bounded by bytes."""

    def __init__(self, bytes_max: int = INDEX_BYTES_MAX) -> None:
        self._entries: LRUCache[IndexKey, bytes] = LRUCache(bytes_max, getsizeof=len)
        self._lock = threading.Lock()

    def get(self, key: IndexKey, length: int) -> bytes | None:
        """The first `length` bytes of the index or more, if they are here."""
        with self._lock:
            entry = self._entries.get(key)
        return entry if entry is not None and len(entry) >= length else None

    def put(self, key: IndexKey, entries: bytes) -> None:
        with self._lock:
            if len(entries) <= self._entries.maxsize:
                self._entries[key] = entries

    def forget(self, key: IndexKey) -> None:
        with self._lock:
            self._entries.pop(key, None)
