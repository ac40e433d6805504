"""The memory layer of the chunk cache: runs of neighbouring chunks, as one GET brought them, least recently used first out.

A run is kept and forgotten whole, because its chunks are views of one buffer: so nothing is copied, what is counted is what is held, and
a read over a chunk border inside a run needs no joining.

Invariants: the sum of runs stays within `bytes_max`; every chunk of a kept run is found, no other.
"""

from __future__ import annotations

from typing import NamedTuple

from cachetools import LRUCache


class Run(NamedTuple):
    """Chunks [first, first + length) of an object as one buffer."""

    key: str
    first: int
    length: int
    chunk_bytes: int
    data: memoryview

    @property
    def start(self) -> int:
        """Byte of the object where the run begins."""
        return self.first * self.chunk_bytes

    def chunk(self, index: int) -> memoryview:
        at = (index - self.first) * self.chunk_bytes
        return self.data[at : at + self.chunk_bytes]


class ChunkMemory(LRUCache[tuple[str, int], Run]):
    """Runs by (object key, first chunk)."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(maxsize=bytes_max, getsizeof=lambda run: len(run.data))
        self._run_of: dict[tuple[str, int], tuple[str, int]] = {}

    @property
    def bytes(self) -> int:
        return int(self.currsize)

    def keep(self, run: Run) -> None:
        """Keep a run; chunks that are here already are found in the new one from now on."""
        if len(run.data) > self.maxsize:
            return
        self.pop((run.key, run.first), None)
        self[run.key, run.first] = run
        for index in range(run.first, run.first + run.length):
            self._run_of[run.key, index] = (run.key, run.first)

    def has(self, key: str, index: int) -> bool:
        return (key, index) in self._run_of

    def chunk(self, key: str, index: int) -> memoryview | None:
        """One chunk, and its run is the most recently used."""
        place = self._run_of.get((key, index))
        return None if place is None else self[place].chunk(index)

    def span(self, key: str, index: int, start: int, stop: int) -> memoryview | None:
        """Bytes [start, stop) of the object, of which the first lies in chunk `index`; None unless one run has them all."""
        place = self._run_of.get((key, index))
        if place is None:
            return None
        run = self[place]
        if stop > run.start + len(run.data):
            return None
        return run.data[start - run.start : stop - run.start]

    def drop(self, key: str, index: int) -> None:
        """Forget the run that has this chunk."""
        place = self._run_of.get((key, index))
        if place is not None:
            del self[place]

    def __delitem__(self, place: tuple[str, int]) -> None:
        run = self[place]
        super().__delitem__(place)
        for index in range(run.first, run.first + run.length):
            if self._run_of.get((run.key, index)) == place:
                del self._run_of[run.key, index]
