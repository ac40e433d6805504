"""Real disks for tests: one without fsync, one that notes what is asked of it, one that fails on request."""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import os
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from hotlog.world.ports import Buffer, Due, File, SyncTold
from hotlog.world.posix import PosixDisk, PosixFile
from tests.tools.patience import SOON_S

P = ParamSpec("P")
T = TypeVar("T")


class FastFile(PosixFile):
    """Syncs in name only: for tests in which the machine never stops.  All of it is in memory, whatever the page cache let go."""

    __slots__ = ()

    def read_at_nowait(self, offset: int, length: int) -> Buffer:
        return self.read_at(offset, length)

    def sync(self) -> None:
        pass


class FastDisk(PosixDisk):
    """A real disk without fsync."""

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        file = super().open(path, create=create, read_only=read_only)
        file.__class__ = FastFile
        return file

    def write_atomic(self, path: str, data: Buffer) -> None:
        with open(f"{path}.new", "wb") as file:
            file.write(data)
        os.rename(f"{path}.new", path)

    def sync_dir(self, path: str) -> None:
        pass

    def begin_syncs(self, syncs: Sequence[Due]) -> None:
        for _, told in syncs:
            asyncio.get_running_loop().call_soon(told, None)


class WatchedDisk(FastDisk):
    """Notes every call with a path."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self.asked: list[tuple[str, str]] = []

    def paths(self, call: str) -> list[str]:
        """What was asked for by `call`, in order."""
        return [path for one, path in self.asked if one == call]

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        self.asked.append(("open", path))
        return super().open(path, create=create, read_only=read_only)

    def read(self, path: str) -> bytes:
        self.asked.append(("read", path))
        return super().read(path)

    def exists(self, path: str) -> bool:
        self.asked.append(("exists", path))
        return super().exists(path)

    def size(self, path: str) -> int:
        self.asked.append(("size", path))
        return super().size(path)

    def remove(self, path: str) -> None:
        self.asked.append(("remove", path))
        super().remove(path)

    def write_atomic(self, path: str, data: Buffer) -> None:
        self.asked.append(("write_atomic", path))
        super().write_atomic(path, data)


class FaultyFile:
    """Passes on to `inner` what `disk` lets pass."""

    def __init__(self, disk: FaultyDisk, inner: File) -> None:
        self._disk = disk
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def append(self, buffers: Sequence[Buffer]) -> int:
        self._disk.check("append", self._inner.path)
        return self._inner.append(buffers)

    def write_at(self, offset: int, data: Buffer) -> None:
        self._disk.check("write", self._inner.path)
        self._inner.write_at(offset, data)

    def read_at_nowait(self, offset: int, length: int) -> Buffer | None:
        if self._disk.is_cold:
            self._disk.cold_reads += 1
            return None
        return self._inner.read_at(offset, length)  # warm, whatever the machine's page cache has let go

    def read_at(self, offset: int, length: int) -> bytes:
        self._disk.check("read", self._inner.path)
        return self._inner.read_at(offset, length)

    def read_once(self, offset: int, length: int) -> Buffer:
        self._disk.check("read", self._inner.path)
        return self._inner.read_once(offset, length)

    def sync(self) -> None:
        self._disk.syncs.append(self._inner.path)
        self._disk.check("sync", self._inner.path)
        self._inner.sync()


class FaultyDisk(PosixDisk):
    """`fail` makes calls fail; `hold` makes `run` wait until `let_go`; `is_cold` empties the page cache for good."""

    def __init__(self) -> None:
        super().__init__(2)
        self.faults: dict[tuple[str, str], int] = {}
        self.syncs: list[str] = []
        self.failed: list[str] = []
        self.is_cold = False
        self.cold_reads = 0
        self.free: int | None = None
        self.descriptors: int | None = None
        self.free_asked = 0
        self._gate: asyncio.Event | None = None
        self.held = 0
        self._syncing: set[asyncio.Task[None]] = set()

    def fail(self, call: str, pattern: str, number: int) -> None:
        self.faults[call, pattern] = number

    def heal(self) -> None:
        self.faults.clear()

    def check(self, call: str, path: str) -> None:
        for (wanted, pattern), number in self.faults.items():
            if wanted == call and fnmatch.fnmatchcase(path, pattern):
                self.failed.append(path)
                raise OSError(number, os.strerror(number), path)

    def hold(self) -> None:
        self._gate = asyncio.Event()

    async def is_holding(self) -> None:
        """Until a call waits."""
        async with asyncio.timeout(SOON_S):
            while not self.held:
                await asyncio.sleep(0)

    def let_go(self) -> None:
        """Whoever waits goes on, and so does who comes later."""
        if self._gate is not None:
            self._gate.set()
            self._gate = None

    def begin_syncs(self, syncs: Sequence[Due]) -> None:
        for due in syncs:
            task = asyncio.get_running_loop().create_task(self._sync(*due))
            self._syncing.add(task)
            task.add_done_callback(self._syncing.discard)

    async def _sync(self, file: File, told: SyncTold) -> None:
        """As `run` does, held and in a thread."""
        try:
            await self.run(file.sync)
        except OSError as error:
            told(error)
        else:
            told(None)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._gate is not None:
            self.held += 1
            await self._gate.wait()
        return await super().run(function, *args, **kwargs)

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        if create and not os.path.exists(path):
            self.check("create", path)
        file: Any = FaultyFile(self, super().open(path, create=create, read_only=read_only))
        return file  # type: ignore[no-any-return]

    def write_atomic(self, path: str, data: Buffer) -> None:
        self.check("write_atomic", path)
        super().write_atomic(path, data)

    def descriptors_max(self) -> int:
        return super().descriptors_max() if self.descriptors is None else self.descriptors

    def free_bytes(self, path: str) -> int:
        self.free_asked += 1
        return super().free_bytes(path) if self.free is None else self.free


NO_SPACE, IO = errno.ENOSPC, errno.EIO
