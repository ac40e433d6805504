"""The memory layer of the chunk cache: runs of neighbouring chunks, as one GET brought them, least recently used first out.

A run is kept and forgotten whole, because its chunks are views of one buffer: so nothing is copied, what is counted is what is held, and
a read over a chunk border inside a run needs no joining.

A run that a sequential reader has read to its end is the least likely to be wanted again.  Few of those are kept, so that a replay goes
round in little memory (whose pages are there already) and does not push out what others use, and they go first: what was read ahead and not
looked at yet is older in use, but is what a reader comes to next.

Invariants: the sum of runs stays within `bytes_max`, that of finished ones within FINISHED_SHARE of it; every chunk of a kept run is found,
no other; no other run goes while there is a finished one.
"""

from __future__ import annotations

from typing import NamedTuple

from cachetools import LRUCache

FINISHED_SHARE = 8  # one of so many bytes may be of finished runs: what a second reader close behind finds


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
        self._finished: dict[tuple[str, int], int] = {}  # sizes, oldest first
        self._finished_bytes = 0
        self._finished_bytes_max = bytes_max // FINISHED_SHARE

    @property
    def bytes(self) -> int:
        return int(self.currsize)

    def keep(self, run: Run) -> None:
        """Keep a run; chunks that are here already are found in the new one from now on."""
        if len(run.data) > self.maxsize:
            return
        self.pop((run.key, run.first), None)
        while self._finished and self.currsize + len(run.data) > self.maxsize:
            del self[next(iter(self._finished))]
        self[run.key, run.first] = run
        for index in range(run.first, run.first + run.length):
            self._run_of[run.key, index] = (run.key, run.first)

    def has(self, key: str, index: int) -> bool:
        return (key, index) in self._run_of

    def chunk(self, key: str, index: int) -> memoryview | None:
        """One chunk, and its run is the most recently used."""
        place = self._run_of.get((key, index))
        return None if place is None else self._wanted(place).chunk(index)

    def span(self, key: str, index: int, start: int, stop: int) -> memoryview | None:
        """Bytes [start, stop) of the object, of which the first lies in chunk `index`; None unless one run has them all."""
        place = self._run_of.get((key, index))
        if place is None:
            return None
        run = self._wanted(place)
        if stop > run.start + len(run.data):
            return None
        return run.data[start - run.start : stop - run.start]

    def finish(self, key: str, index: int, stop: int) -> None:
        """A sequential reader is done with the run that has chunk `index`, if that ends at or before byte `stop` of the object."""
        place = self._run_of.get((key, index))
        if place is None or place in self._finished:
            return
        run = self[place]
        if run.start + len(run.data) > stop:
            return
        self._finished[place] = len(run.data)
        self._finished_bytes += len(run.data)
        while self._finished_bytes > self._finished_bytes_max:
            del self[next(iter(self._finished))]

    def _wanted(self, place: tuple[str, int]) -> Run:
        """A run that somebody reads: not a finished one any more, and the most recently used."""
        self._finished_bytes -= self._finished.pop(place, 0)
        return self[place]

    def drop(self, key: str, index: int) -> None:
        """Forget the run that has this chunk."""
        place = self._run_of.get((key, index))
        if place is not None:
            del self[place]

    def __delitem__(self, place: tuple[str, int]) -> None:
        run = self[place]
        super().__delitem__(place)
        self._finished_bytes -= self._finished.pop(place, 0)
        for index in range(run.first, run.first + run.length):
            if self._run_of.get((run.key, index)) == place:
                del self._run_of[run.key, index]
