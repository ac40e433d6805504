"""Parsed small things of the cold tier (segment footers, archive pages), bounded by bytes, one load for many readers.

Invariants: the sum of sizes stays within the bound (remote.log.index.file.cache.total.size.bytes); concurrent askers of one key share
one load, which no leaving asker cancels; a failed load is not remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

from hotlog.kernel.errors import NotReady, Retry
from hotlog.world.tasks import TaskScope

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class NotYet(Retry):
    """It is on its way; whoever asked did not want to wait longer."""


class FooterCache(Generic[K, V]):
    """Values by key, least recently used first out."""

    def __init__(self, bytes_max: int, size_of: Callable[[V], int]) -> None:
        self._values: LRUCache[K, V] = LRUCache(maxsize=bytes_max, getsizeof=size_of)
        self._size_of = size_of
        self._loads: dict[K, asyncio.Future[V]] = {}
        self._scope = TaskScope("footer-cache")

    @property
    def bytes(self) -> int:
        return int(self._values.currsize)

    def peek(self, key: K) -> V | None:
        return self._values.get(key)

    async def get(self, key: K, load: Callable[[], Awaitable[V]], *, wait_s: float | None = None) -> V:
        """The value, loaded by `load` if it is not here; what `load` raises reaches everyone who waits for this load.

        Raises:
            NotYet: `wait_s` seconds went by; the load goes on.
        """
        value = self._values.get(key)
        if value is not None:
            return value
        arrived = self._loads.get(key) or self._start(key, load)
        await asyncio.wait({arrived}, timeout=wait_s)
        if not arrived.done():
            raise NotYet(f"{key} is still being loaded")
        if arrived.cancelled():
            raise NotReady("the cold tier is closing")
        return arrived.result()

    def offer(self, key: K, value: V) -> None:
        """Keep a value that nobody asked for, if it pushes out none that somebody did."""
        if self._values.currsize + self._size_of(value) <= self._values.maxsize:
            self._values[key] = value

    def drop(self, key: K) -> None:
        self._values.pop(key, None)

    async def close(self) -> None:
        await self._scope.cancel()

    def _start(self, key: K, load: Callable[[], Awaitable[V]]) -> asyncio.Future[V]:
        arrived: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        arrived.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._loads[key] = arrived
        self._scope.spawn(self._load(key, load, arrived))
        return arrived

    async def _load(self, key: K, load: Callable[[], Awaitable[V]], arrived: asyncio.Future[V]) -> None:
        try:
            value = await load()
        except Exception as failure:
            arrived.set_exception(failure)
        except asyncio.CancelledError:
            arrived.cancel()
            raise
        else:
            if self._size_of(value) <= self._values.maxsize:
                self._values[key] = value
            arrived.set_result(value)
        finally:
            self._loads.pop(key, None)
