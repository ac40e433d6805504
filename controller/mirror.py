"""The local copy of the metadata objects, in the data directory: what a broker starts from while the store is away.

It holds the very bytes that are in the store: the head, and each page and snapshot that the head names.  Immutable objects are
read from here first, so that a restart costs one GET.

Invariants: written only after the store has the same bytes; objects before the head that names them; a damaged copy counts as
missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from crc32c import crc32c

from controller.codec import Head, decode_head
from controller.keys import file_name
from hotlog.kernel.errors import Corrupt, Invalid
from hotlog.world.ports import Disk, File

_LOCK = ".lock"
_HEAD = "head"
_OBJECTS = "objects"
_INCARNATIONS = "incarnations"
_PRODUCER_IDS = "producer-ids"
INCARNATIONS_KEPT = 8


class Mirror:
    """Blocking calls are made through `disk.run`."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._lock: File | None = None

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _object_path(self, key: str) -> str:
        return f"{self._directory}/{_OBJECTS}/{file_name(key)}"

    async def open(self) -> None:
        """Make the directory and lock it, before anything is claimed: a second process must not depose the first.

        Raises:
            Invalid: another process has it.
        """
        await self._disk.run(self._open)

    def _open(self) -> None:
        try:
            self._disk.make_dirs(self._directory)
            self._lock = self._disk.lock(self._path(_LOCK))
            self._disk.sync_dir(self._directory)  # what a killed process renamed is relied on from here on
        except BlockingIOError:
            raise Invalid(f"{self._directory} is in use by another process") from None

    async def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def head(self) -> Head | None:
        """The newest head this node has seen committed; None if there is none or it is damaged."""
        raw = await self._read(self._path(_HEAD))
        if raw is None:
            return None
        try:
            return decode_head(raw)
        except Corrupt:
            return None

    async def object(self, key: str) -> bytes | None:
        return await self._read(self._object_path(key))

    async def _read(self, path: str) -> bytes | None:
        try:
            return bytes(await self._disk.run(self._disk.read, path))
        except FileNotFoundError:
            return None

    async def save_object(self, key: str, body: bytes) -> None:
        await self._disk.run(self._save, self._object_path(key), body)

    async def save_head(self, raw: bytes, keep: Iterable[str]) -> None:
        """Replace the head; then forget objects that are not in `keep`."""
        await self._disk.run(self._save, self._path(_HEAD), raw)
        await self._disk.run(self._prune, {file_name(key) for key in keep})

    def _save(self, path: str, body: bytes) -> None:
        self._disk.make_dirs(path.rsplit("/", 1)[0])
        self._disk.write_atomic(path, body)

    def _prune(self, keep: set[str]) -> None:
        directory = self._path(_OBJECTS)
        if not self._disk.exists(directory):
            return
        for name in self._disk.listdir(directory):
            if name not in keep:
                self._disk.remove(f"{directory}/{name}")

    async def incarnations(self) -> list[str]:
        """The ids under which processes on this data directory registered, newest first."""
        raw = await self._read(self._path(_INCARNATIONS))
        return raw.decode().split() if raw else []

    async def add_incarnation(self, incarnation: str, registered: str | None) -> None:
        """Written before the claim that carries it, so that an own claim is always recognised.

        `registered` is the one that the metadata has: if it is an own one, it is not pushed out however many claims fail.
        """
        known = await self.incarnations()
        if incarnation in known:
            return
        first = [incarnation, *(one for one in known if one == registered)]
        kept = [*first, *(one for one in known if one not in first)][:INCARNATIONS_KEPT]
        await self._disk.run(self._save, self._path(_INCARNATIONS), "\n".join(kept).encode())

    async def producer_ids(self) -> range:
        """The reserve of producer ids; empty if there is none, or its file is damaged."""
        raw = await self._read(self._path(_PRODUCER_IDS))
        try:
            start, end, check = (int(word) for word in (raw or b"").split())
        except ValueError:
            return range(0)
        return range(start, end) if check == _check(start, end) else range(0)

    async def save_producer_ids(self, ids: range) -> None:
        text = f"{ids.start} {ids.stop} {_check(ids.start, ids.stop)}\n"
        await self._disk.run(self._save, self._path(_PRODUCER_IDS), text.encode())


def _check(start: int, end: int) -> int:
    return int(crc32c(f"{start} {end}".encode()))


class NoMirror(Mirror):
    """For commands that read a bucket's metadata and keep nothing."""

    def __init__(self) -> None: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def head(self) -> Head | None:
        return None

    async def object(self, key: str) -> bytes | None:
        return None

    async def save_object(self, key: str, body: bytes) -> None: ...

    async def save_head(self, raw: bytes, keep: Iterable[str]) -> None: ...

    async def incarnations(self) -> list[str]:
        return []

    async def add_incarnation(self, incarnation: str, registered: str | None) -> None: ...
