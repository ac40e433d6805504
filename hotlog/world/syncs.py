"""Syncs of many files at once, without a thread that waits for each.

On Linux the kernel's own workers do them (io_submit of IOCB_CMD_FDSYNC, which is an fdatasync): one call begins all, and one descriptor in the
event loop says that some are done.  A thread of ours would have to take the interpreter's lock for each, from a loop that is busy, and a few
threads let the file system join fewer syncs in one commit: 70 us of CPU and more a file, where this costs 12.  Elsewhere threads do it.

Invariants: a sync covers what was written to its file before `begin`; each is told once, on the loop that began it; an error is told, and
nothing is tried again after it; at most IN_FLIGHT_MAX are with the kernel at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import logging
import os
import platform
import struct
import sys
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

from hotlog.world.ports import Due

LOG = logging.getLogger(__name__)
IN_FLIGHT_MAX = 128
PIECES_MAX = 4  # threads that one round of syncs may use

# struct iocb of <linux/aio_abi.h>: data Q, key I, flags I, opcode H, priority h, descriptor I, buffer Q, bytes Q, offset q, reserved Q,
# flags I, eventfd I; and struct io_event: data Q, iocb Q, result q, second result q.  Little endian.
_IOCB = struct.Struct("<QIIHhIQQqQII")
_EVENT = struct.Struct("<QQqq")
_DESCRIPTOR = struct.Struct("<I")
_DESCRIPTOR_AT = 20
_FDSYNC, _TELL_EVENTFD = 3, 1
_NO_DESCRIPTOR = 0xFFFFFFFF


class _Numbers(NamedTuple):
    """Of the system calls."""

    setup: int
    destroy: int
    submit: int
    events: int


_GENERIC = _Numbers(0, 1, 2, 4)
_NUMBERS = {"x86_64": _Numbers(206, 207, 209, 208), "aarch64": _GENERIC, "riscv64": _GENERIC, "loongarch64": _GENERIC}


class ThreadSyncs:
    """Syncs by a pool's threads, each thread one file after another."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    def begin(self, syncs: Sequence[Due]) -> None:
        loop = asyncio.get_running_loop()
        for start in range(min(PIECES_MAX, len(syncs))):
            self._pool.submit(_sync_all, syncs[start::PIECES_MAX], loop)

    def close(self) -> None:
        """The pool is somebody else's."""


def _sync_all(syncs: Sequence[Due], loop: asyncio.AbstractEventLoop) -> None:
    outcomes: list[Exception | None] = []
    for file, _ in syncs:
        try:
            file.sync()
        except Exception as error:  # of a closed file it is a ValueError
            outcomes.append(error)
        else:
            outcomes.append(None)
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
        loop.call_soon_threadsafe(_tell_all, syncs, outcomes)


def _tell_all(syncs: Sequence[Due], outcomes: Sequence[Exception | None]) -> None:
    for due, outcome in zip(syncs, outcomes, strict=True):
        _tell(due, outcome)


def _tell(due: Due, error: Exception | None) -> None:
    try:
        due[1](error)
    except Exception:  # a bug of one log must not keep the others waiting
        LOG.exception("%s was synced, and its log could not take it", due[0].path)


class KernelSyncs:
    """Syncs by the kernel's workers.  Made by `syncs_of`; raises OSError where the kernel does not have them."""

    def __init__(self, numbers: _Numbers, threads: ThreadSyncs) -> None:
        self._threads = threads
        self._submit = _system_call(numbers.submit, ctypes.c_ulong, ctypes.c_long, ctypes.c_void_p)
        self._events = _system_call(
            numbers.events, ctypes.c_ulong, ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p
        )
        context = ctypes.c_ulong(0)
        setup = _system_call(numbers.setup, ctypes.c_long, ctypes.c_void_p)
        if setup(IN_FLIGHT_MAX, ctypes.byref(context)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "io_setup")
        self._context = context.value
        destroy = _system_call(numbers.destroy, ctypes.c_ulong)
        try:
            self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            destroy(self._context)
            raise
        self._end = weakref.finalize(self, _destroy, destroy, self._context, self._eventfd)
        self._blocks = bytearray(_IOCB.size * IN_FLIGHT_MAX)
        for slot in range(IN_FLIGHT_MAX):
            _IOCB.pack_into(self._blocks, slot * _IOCB.size, slot, 0, 0, _FDSYNC, 0, 0, 0, 0, 0, 0, _TELL_EVENTFD, self._eventfd)
        self._blocks_at = ctypes.addressof(ctypes.c_char.from_buffer(self._blocks))
        self._pointers = (ctypes.c_uint64 * IN_FLIGHT_MAX)()
        self._done = (ctypes.c_char * (_EVENT.size * IN_FLIGHT_MAX))()
        self._free = list(range(IN_FLIGHT_MAX))
        self._begun: dict[int, Due] = {}  # by slot
        self._queue: deque[Due] = deque()  # bounded by the logs: each has one sync under way
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, syncs: Sequence[Due]) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            loop.add_reader(self._eventfd, self._reap)
            self._loop = loop
        self._queue.extend(syncs)
        self._hand_over()

    def close(self) -> None:
        """What is under way is waited for and not told."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._eventfd)
        self._end()

    def _hand_over(self) -> None:
        """Give the kernel as many as it may have; what it does not take gives its place to those that wait."""
        while self._queue and self._free:
            self._hand_over_some()

    def _hand_over_some(self) -> None:
        queue, free, pointers = self._queue, self._free, self._pointers
        count = min(len(queue), len(free))
        slots = free[len(free) - count :]
        del free[len(free) - count :]
        for number, slot in enumerate(slots):
            due = self._begun[slot] = queue.popleft()
            descriptor = due[0].fileno()
            at = slot * _IOCB.size
            _DESCRIPTOR.pack_into(self._blocks, at + _DESCRIPTOR_AT, _NO_DESCRIPTOR if descriptor is None else descriptor)
            pointers[number] = self._blocks_at + at
        refused = []
        done = 0
        while done < count:
            taken = self._submit(self._context, count - done, ctypes.byref(pointers, 8 * done))
            if taken <= 0:  # the first of them cannot be begun: a thread's fdatasync will do it, or say what is wrong
                taken = 1
                refused.append(self._begun.pop(slots[done]))
                free.append(slots[done])
            done += taken
        if refused:
            self._threads.begin(refused)

    def _reap(self) -> None:
        """The loop: some are done."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        count = IN_FLIGHT_MAX
        while count == IN_FLIGHT_MAX or (count < 0 and ctypes.get_errno() == errno.EINTR):
            count = self._events(self._context, 0, IN_FLIGHT_MAX, self._done, None)
            found = [_EVENT.unpack_from(self._done, number * _EVENT.size) for number in range(count)]
            for slot, _, result, _ in found:
                due = self._begun.pop(slot)
                self._free.append(slot)
                _tell(due, None if result == 0 else OSError(-result, os.strerror(-result), due[0].path))
        if self._queue:
            self._hand_over()


def _system_call(number: int, *kinds: Any) -> Callable[..., int]:
    """A system call that does not wait: it is made with the interpreter's lock held, which costs less than giving it away."""
    function = _libc()["syscall"]
    function.argtypes = (ctypes.c_long, *kinds)
    function.restype = ctypes.c_long

    def call(*arguments: Any) -> int:
        return int(function(number, *arguments))

    return call


@functools.cache
def _libc() -> ctypes.PyDLL:
    """Opened once: each opening leaves a circle of classes to the garbage collector."""
    return ctypes.PyDLL(None, use_errno=True)


def _destroy(destroy: Callable[..., int], context: int, eventfd: int) -> None:
    destroy(context)
    os.close(eventfd)


def syncs_of(pool: Executor) -> ThreadSyncs | KernelSyncs:
    """What this machine has; `pool` is for where the kernel does not do it."""
    threads = ThreadSyncs(pool)
    numbers = _NUMBERS.get(platform.machine())
    if sys.platform != "linux" or sys.byteorder != "little" or struct.calcsize("P") != 8 or numbers is None:
        return threads
    try:
        return KernelSyncs(numbers, threads)
    except OSError as error:
        LOG.info("threads do the fsyncs: %s", error)
        return threads
