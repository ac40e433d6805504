"""The real clock, entropy and disk: the only threads of the broker start here.

Invariants: files are opened close-on-exec and never through a symbolic link at the last element; a failed or short append leaves the
file at its old size; `write_atomic` shows old or new content, never a mix, and is on the device when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import random
import resource
import secrets
import shutil
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from hotlog.world.ports import Buffer, Due, File
from hotlog.world.syncs import KernelSyncs, ThreadSyncs, syncs_of

P = ParamSpec("P")
T = TypeVar("T")

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_BUFFERS_MAX = 512  # well under IOV_MAX (1024)
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_advise = getattr(os, "posix_fadvise", None)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL)  # a directory in which this process can have made nothing
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
THREADS_MAX = 16
BUFFER_BYTES = 1024 * 1024 + 64 * 1024  # a fetch of one partition, usually, or one largest batch
BUFFERS_KEPT = 16
_TRIES = 4


class SystemClock:
    """Wall and monotonic time of the machine."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)  # asked at every request, so without a call between


class SystemEntropy:
    """The machine's randomness; uuids are version 4."""

    def uuid(self) -> uuid.UUID:
        return uuid.uuid4()

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)

    def bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


class _Buffers:
    """Large read buffers used again once nobody holds a view of them: a fresh 1 MiB costs as much as filling it from the page cache.

    Invariants: a buffer is handed out again only when this list holds its last reference (a memoryview holds one).
    """

    def __init__(self) -> None:
        self._kept: deque[bytearray] = deque()

    def buffer_of(self, length: int) -> Buffer:
        """A writable buffer of exactly `length` bytes, content undefined."""
        if not BUFFER_BYTES // 8 <= length <= BUFFER_BYTES:
            return bytearray(length)
        for _ in range(min(len(self._kept), _TRIES)):
            try:
                buffer = self._kept.popleft()
            except IndexError:  # another thread was faster
                break
            free = memoryview(buffer)[:length] if sys.getrefcount(buffer) == 2 else None  # our name and the argument
            self._kept.append(buffer)
            if free is not None:
                return free
        fresh = bytearray(BUFFER_BYTES)
        if len(self._kept) < BUFFERS_KEPT:
            self._kept.append(fresh)
        return memoryview(fresh)[:length]


_buffers = _Buffers()


class PosixFile:
    """One descriptor.  `size` is kept here, so the file must not be written through another descriptor at the same time."""

    __slots__ = ("_descriptor", "_nowait", "path", "size")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._nowait = _NOWAIT != 0

    def append(self, buffers: Sequence[Buffer]) -> int:
        before = position = self.size
        try:
            if len(buffers) == 1:  # nearly always, and nearly always whole
                count = len(buffers[0])
                if os.pwrite(self._descriptor, buffers[0], before) == count:
                    self.size = before + count
                    return count
            for start in range(0, len(buffers), _BUFFERS_MAX):
                position = self._write_all(list(buffers[start : start + _BUFFERS_MAX]), position)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                os.ftruncate(self._descriptor, before)
            raise
        self.size = position
        return position - before

    def _write_all(self, buffers: list[Buffer], position: int) -> int:
        """Write at `position`; go on after a short write, which ends in the error that made it short."""
        wanted = sum(map(len, buffers))
        written = os.pwritev(self._descriptor, buffers, position)
        if written != wanted:
            rest = memoryview(b"".join(buffers))[written:]
            while rest:
                count = os.pwrite(self._descriptor, rest, position + written)
                if count == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
                written += count
                rest = rest[count:]
        return position + wanted

    def write_at(self, offset: int, data: Buffer) -> None:
        end = self._write_all([data], offset)
        self.size = max(self.size, end)

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        offset, length = offset + len(data), length - len(data)
        while length > 0 and (data := os.pread(self._descriptor, length, offset)):
            parts.append(data)
            offset, length = offset + len(data), length - len(data)
        return b"".join(parts)

    def read_at_nowait(self, offset: int, length: int) -> Buffer | None:
        if not self._nowait:
            return os.pread(self._descriptor, length, offset)  # such as tmpfs, which is memory already
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        buffer = bytearray(length) if length < BUFFER_BYTES // 8 else _buffers.buffer_of(length)
        try:
            count = os.preadv(self._descriptor, (buffer,), offset, _NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._nowait = False
            return os.pread(self._descriptor, length, offset)
        return buffer if count == length else None  # short: the rest is on the device

    def read_once(self, offset: int, length: int) -> Buffer:
        if _advise is not None:  # what is read ahead would count as cached the next time
            _advise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        data = self.read_at_nowait(offset, length)
        if data is None:
            data = self.read_at(offset, length)
            if _advise is not None:
                _advise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        return data

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self.size = size

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def fileno(self) -> int | None:
        return self._descriptor if self._descriptor >= 0 else None


def _carried(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """`function` in a thread.  No future carries a StopIteration: who waits for it would wait for ever."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"{function!r} ended with StopIteration") from error


DESCRIPTORS_MAX = 1 << 20  # nobody counts on more


class PosixDisk:
    """The machine's file system.  `threads_max` bounds the blocking calls in flight."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="hotlog-disk")
        self._syncs: ThreadSyncs | KernelSyncs | None = None  # made by the first that are due
        self._temporary = itertools.count()
        self._lasting: set[str] = set()  # directories that `make_dirs` found, their names synced since this process began

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        return PosixFile(path, os.open(path, flags | _FLAGS | (os.O_CREAT if create else 0), 0o644))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def modified_ms(self, path: str) -> int:
        return os.stat(path).st_mtime_ns // 1_000_000

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def make_dirs(self, path: str) -> None:
        missing = []
        walk = os.path.abspath(path)
        while not os.path.isdir(walk):
            missing.append(walk)
            walk = os.path.dirname(walk)
        if walk not in self._lasting:
            self._sync_name(walk)
            self._lasting.add(walk)
        for name in reversed(missing):  # one after the other: only the last one made can be without its sync if we die here
            try:
                os.mkdir(name)
            except FileExistsError:  # made meanwhile
                if not os.path.isdir(name):
                    raise
            self.sync_dir(os.path.dirname(name))

    def _sync_name(self, directory: str) -> None:
        """A directory that is there may have been made by a process that was killed before it synced the name."""
        try:
            self.sync_dir(os.path.dirname(directory))
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise

    def read(self, path: str) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))
        finally:
            os.close(descriptor)

    def write_atomic(self, path: str, data: Buffer) -> None:
        temporary = f"{path}.{os.getpid()}.{next(self._temporary)}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o644)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(temporary, path)
        except OSError:
            self.remove(temporary)
            raise
        self.sync_dir(os.path.dirname(path) or ".")

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_tree(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        figures = os.statvfs(path)
        return figures.f_bavail * figures.f_frsize

    def total_bytes(self, path: str) -> int:
        figures = os.statvfs(path)
        return figures.f_blocks * figures.f_frsize

    def descriptors_max(self) -> int:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else min(soft, DESCRIPTORS_MAX)

    def lock(self, path: str) -> File:
        """Hold `path` for this process until the file is closed; BlockingIOError if another process holds it."""
        file = self.open(path, create=True)
        descriptor = file.fileno()
        assert descriptor is not None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        return file

    def begin_syncs(self, syncs: Sequence[Due]) -> None:
        if self._syncs is None:
            self._syncs = syncs_of(self._pool)
        self._syncs.begin(syncs)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(_carried, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End the threads; calls in work are waited for."""
        if self._syncs is not None:
            self._syncs.close()
        self._pool.shutdown(wait=True)
