"""The Disk port in memory: loses what was not fsynced, fails on request, and dies at the call it is told to.

A `SimDisk` is one process's view; the `Machine`'s files outlive it.  `kill` (kill -9) leaves the page cache as it is, `lose_power` keeps
what files.py says.  Both give a new view for the next life and end the old one.

Invariants: a view that ended raises Crashed from every call; every call that changes or reads the device is counted by the fuse.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import ParamSpec, TypeVar

from hotlog.world.ports import Buffer, Clock, Due, File, SyncTold
from tests.sim.files import Dir, Inode, Node, Tree, parent
from tests.sim.fuse import Crashed, Fuse
from tests.sim.trace import Trace

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class DiskFault:
    """Fail the calls `op` (open, read, append, write, sync, rename, ...) on paths like `pattern`, after `skip`, `times` times."""

    op: str
    pattern: str
    number: int
    skip: int = 0
    times: int = 1


class Machine:
    """A disk that outlives processes."""

    def __init__(self, random: Random, *, capacity_bytes: int | None = None) -> None:
        self.random = random
        self.tree = Tree()
        self.capacity_bytes = capacity_bytes
        self.faults: list[DiskFault] = []
        self.page_cache = 0.9  # share of reads that need no device
        self.delay_seconds_max = 0.003  # of a call that leaves the loop
        self.used_bytes = 0
        self.temporaries = 0

    def fail(self, op: str, number: int = errno.EIO, *, pattern: str = "*", skip: int = 0, times: int = 1) -> None:
        self.faults.append(DiskFault(op, pattern, number, skip, times))

    def check(self, op: str, path: str) -> None:
        """Raise the OSError that was ordered for this call, if any."""
        for fault in self.faults:
            if fault.op == op and fault.times > 0 and fnmatch.fnmatchcase(path, fault.pattern):
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                raise _error(fault.number, path)

    def take(self, count: int, path: str) -> None:
        if self.capacity_bytes is not None and self.used_bytes + count > self.capacity_bytes:
            raise _error(errno.ENOSPC, path)
        self.used_bytes += count

    def flip(self, path: str, offset: int, bit: int = 0) -> None:
        """Bit rot: one bit of a file changes on the device, unnoticed."""
        node = self.tree.find(normal(path))
        assert isinstance(node, Inode)
        node.data[offset] ^= 1 << bit

    def recount(self) -> None:
        self.used_bytes = sum(len(node.data) for _, node in self.tree.files())


def normal(path: str) -> str:
    return posixpath.normpath(path if path.startswith("/") else "/" + path)


def base(path: str) -> str:
    return path.rsplit("/", 1)[1]


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class SimDisk:
    """The Disk port of one process life."""

    def __init__(self, machine: Machine, clock: Clock, trace: Trace, fuse: Fuse) -> None:
        self.machine = machine
        self._clock = clock
        self._trace = trace
        self._fuse = fuse
        self._lasting: set[str] = set()  # as the real one's

    # -- life and death

    def kill(self, fuse: Fuse) -> SimDisk:
        """kill -9: the page cache stays."""
        self._fuse.blown = True
        self.machine.recount()
        return SimDisk(self.machine, self._clock, self._trace, fuse)

    def lose_power(self, fuse: Fuse) -> SimDisk:
        """The machine stops: only what was synced stays for certain."""
        self._fuse.blown = True
        self.machine.tree.lose_power(self.machine.random)
        self.machine.recount()
        return SimDisk(self.machine, self._clock, self._trace, fuse)

    def _enter(self, op: str, path: str, half: Callable[[], None] | None = None) -> None:
        """Count the call; die in it, half done, if told to; else fail if told to."""
        if self._fuse.tick(f"disk {op} {path}"):
            if half is not None:
                half()
            raise self._fuse.blow(f"disk {op} {path}")
        self.machine.check(op, path)

    def _log(self, op: str, path: str, more: object = "") -> None:
        self._trace.add("disk", f"{op} {path} {more}".rstrip())

    # -- names

    def _find(self, path: str) -> Node | None:
        self._fuse.check()
        return self.machine.tree.find(normal(path))

    def _file(self, path: str) -> Inode:
        node = self._find(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        if isinstance(node, Dir):
            raise _error(errno.EISDIR, path)
        return node

    def _dir(self, path: str) -> Dir:
        node = self._find(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        if isinstance(node, Inode):
            raise _error(errno.ENOTDIR, path)
        return node

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        name = normal(path)
        self._enter("open", name)
        node = self._find(name)
        if node is None and create:
            home = self._dir(parent(name))
            self.machine.tree.change(None, (home, base(name), Inode(modified_ms=self._clock.now_ms())))
            self._log("create", name)
        return SimFile(self, path, name, self._file(path), read_only)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def size(self, path: str) -> int:
        return len(self._file(path).data)

    def modified_ms(self, path: str) -> int:
        return self._file(path).modified_ms

    def listdir(self, path: str) -> list[str]:
        return sorted(self._dir(path).now)

    def make_dirs(self, path: str) -> None:
        name = normal(path)
        self._enter("make_dirs", name)
        missing = []
        while self._find(name) is None:
            missing.append(name)
            name = parent(name)
        home = self._dir(name)
        if name not in self._lasting:
            self.sync_dir(parent(name))
            self._lasting.add(name)
        for one in reversed(missing):
            made = Dir()
            self.machine.tree.change(None, (home, base(one), made))
            self._log("mkdir", one)
            self.sync_dir(parent(one))
            home = made

    def read(self, path: str) -> bytes:
        self._enter("read", normal(path))
        return bytes(self._file(path).data)

    def write_atomic(self, path: str, data: Buffer) -> None:
        """As the port says, in the steps of the real one: each is a call that can fail or be the last."""
        if isinstance(self._find(path), Dir):
            raise _error(errno.EISDIR, path)
        self.machine.temporaries += 1
        temporary = f"{path}.{self.machine.temporaries}.tmp"  # a name of its own, which a crash leaves behind
        file = self.open(temporary, create=True)
        try:
            file.append([data])
            file.sync()
            self.rename(temporary, path)
        except OSError:
            self.remove(temporary)
            raise
        self.sync_dir(parent(normal(path)))

    def rename(self, source: str, target: str) -> None:
        old, new = normal(source), normal(target)
        node, replaced = self._find(old), self._find(new)
        if node is None:
            raise _error(errno.ENOENT, source)
        if replaced is not None and isinstance(replaced, Dir) != isinstance(node, Dir):
            raise _error(errno.EISDIR if isinstance(replaced, Dir) else errno.ENOTDIR, target)
        if isinstance(replaced, Dir) and replaced.now:
            raise _error(errno.ENOTEMPTY, target)
        from_home, to_home = self._dir(parent(old)), self._dir(parent(new))

        def move() -> None:
            if replaced is not node:
                self.machine.tree.change((from_home, base(old)), (to_home, base(new), node))
                self.machine.used_bytes -= len(replaced.data) if isinstance(replaced, Inode) else 0

        self._enter("rename", new, move if self.machine.random.random() < 0.5 else None)
        move()
        self._log("rename", old, new)

    def remove(self, path: str) -> None:
        name = normal(path)
        if self._find(name) is not None:
            self._remove(name, self._file(path))

    def _remove(self, name: str, node: Node) -> None:
        self._enter("remove", name)
        self.machine.used_bytes -= len(node.data) if isinstance(node, Inode) else 0
        self.machine.tree.change((self._dir(parent(name)), base(name)), None)
        self._log("remove", name)

    def remove_tree(self, path: str) -> None:
        name = normal(path)
        node = self._find(name)
        if node is None:
            return
        if isinstance(node, Dir):
            for child in sorted(node.now):  # one crash point each
                self.remove_tree(f"{name.rstrip('/')}/{child}")
        self._remove(name, node)

    def sync_dir(self, path: str) -> None:
        name = normal(path)
        home = self._dir(name)
        self._enter("sync_dir", name)
        self.machine.tree.sync_dir(home)
        self._log("sync_dir", name)

    def descriptors_max(self) -> int:
        return 1024

    def lock(self, path: str) -> File:
        """The only process there is always gets it."""
        return self.open(path, create=True)

    def close(self) -> None:
        """No threads to end."""

    def free_bytes(self, path: str) -> int:
        self._fuse.check()
        capacity = self.machine.capacity_bytes
        return 1 << 50 if capacity is None else max(0, capacity - self.machine.used_bytes)

    def total_bytes(self, path: str) -> int:
        self._fuse.check()
        return 1 << 50 if self.machine.capacity_bytes is None else self.machine.capacity_bytes

    def begin_syncs(self, syncs: Sequence[Due]) -> None:
        """Each happens at a seeded later time, and is told at a later one still."""
        self._fuse.check()
        for file, told in syncs:
            asyncio.get_running_loop().call_later(
                self.machine.random.uniform(0, self.machine.delay_seconds_max), self._sync, file, told
            )

    def _sync(self, file: File, told: SyncTold) -> None:
        error = None
        try:
            file.sync()
        except OSError as failed:
            error = failed
        except Crashed:
            return  # nobody is left to be told
        asyncio.get_running_loop().call_later(self.machine.random.uniform(0, self.machine.delay_seconds_max), told, error)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function runs whole at a seeded later time; its answer arrives at a later one still.

        As with a thread, it runs even if the caller was cancelled meanwhile.
        """
        self._fuse.check()
        loop = asyncio.get_running_loop()
        random, slow = self.machine.random, self.machine.delay_seconds_max
        done: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, failure: BaseException | None) -> None:
            if done.done():
                return
            if failure is not None:
                done.set_exception(failure)
            else:
                done.set_result(value)  # type: ignore[arg-type]

        def work() -> None:
            try:
                value, failure = function(*args, **kwargs), None
            except BaseException as error:
                value, failure = None, error
            if isinstance(failure, StopIteration):  # no future carries one
                failure = RuntimeError("work on a disk ended with StopIteration")
            loop.call_later(random.uniform(0, slow), settle, value, failure)

        loop.call_later(random.uniform(0, slow), work)
        return await done


class SimFile:
    """An open file of one life."""

    def __init__(self, disk: SimDisk, path: str, name: str, node: Inode, read_only: bool) -> None:
        self._disk = disk
        self._path = path
        self._name = name
        self._node = node
        self._read_only = read_only
        self._closed = False

    @property
    def path(self) -> str:
        return self._path

    @property
    def size(self) -> int:
        return len(self._node.data)

    def _writable(self) -> None:
        self._open()
        if self._read_only:
            raise OSError(errno.EBADF, "opened read-only", self._path)

    def _open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "closed", self._path)

    def append(self, buffers: Sequence[Buffer]) -> int:
        self._writable()
        data = b"".join(buffers)
        machine, node = self._disk.machine, self._node

        def half() -> None:
            node.write(len(node.data), data[: machine.random.randint(0, len(data))])

        self._disk._enter("append", self._name, half)
        machine.take(len(data), self._path)
        node.write(len(node.data), data)
        node.modified_ms = self._disk._clock.now_ms()
        self._disk._log("append", self._name, len(data))
        return len(data)

    def write_at(self, offset: int, data: Buffer) -> None:
        self._writable()
        machine, node, new = self._disk.machine, self._node, bytes(data)

        def half() -> None:
            node.write(offset, new[: machine.random.randint(0, len(new))])

        self._disk._enter("write", self._name, half)
        machine.take(max(0, offset + len(new) - len(node.data)), self._path)
        node.write(offset, new)
        node.modified_ms = self._disk._clock.now_ms()
        self._disk._log("write", self._name, f"{offset} {len(new)}")

    def read_at(self, offset: int, length: int) -> bytes:
        self._open()
        self._disk._enter("read", self._name)
        return bytes(self._node.data[offset : offset + length])

    def read_at_nowait(self, offset: int, length: int) -> bytes | None:
        self._open()
        self._disk._fuse.check()
        if self._disk.machine.random.random() >= self._disk.machine.page_cache:
            return None
        length = min(length, len(self._node.data) - offset)
        return self.read_at(offset, length) if length > 0 else b""

    def read_once(self, offset: int, length: int) -> bytes:
        return self.read_at(offset, length)

    def sync(self) -> None:
        self._open()
        try:
            self._disk._enter("sync", self._name)
        except OSError:
            self._node.sync_failed()
            raise
        self._node.sync()
        self._disk._log("sync", self._name)

    def truncate(self, size: int) -> None:
        self._writable()
        self._disk._enter("truncate", self._name)
        before = len(self._node.data)
        self._disk.machine.take(size - before, self._path)
        self._node.truncate(size)
        self._disk._log("truncate", self._name, size)

    def close(self) -> None:
        self._closed = True

    def fileno(self) -> int | None:
        return None
