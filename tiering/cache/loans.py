"""How much memory is held by bodies of GETs that are still looked at, wherever their views have gone.

A body is 16 MiB, a client's answer a megabyte of it: a view that waits in an answer keeps the whole body, also when the cache has long let it
go.  So bodies are counted for as long as any view of them lives, and who gives views away asks whether too much is out already.

Invariants: a body counts from `lend` until its last view is gone; one thread lends and asks, views may die in any.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from weakref import ref

from hotlog.world.ports import Buffer


class _Body(bytearray):
    """Bytes that a weak reference can point to, which `bytes` can't be."""


class Loans:
    """The bodies of which a view is still in use, and their size."""

    def __init__(self) -> None:
        self._bodies: dict[int, ref[object]] = {}  # bounded by the memory that the bodies take
        self._returned: deque[tuple[int, int]] = deque()  # (number, size); as many as there are bodies at most
        self._number = 0
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Size of all bodies that somebody looks at."""
        while self._returned:
            number, size = self._returned.popleft()
            del self._bodies[number]
            self._bytes -= size
        return self._bytes

    def lend(self, body: Buffer) -> memoryview:
        """A view of `body`; as long as it or a slice of it is in use, `body` counts.

        It is the same memory if a weak reference can point to that (tiering.store.buffers), else a copy: of small bodies, and of what came by
        an unusual way.
        """
        view = memoryview(body)
        if isinstance(view.obj, bytes | bytearray):
            view = memoryview(_Body(view)).toreadonly()
        self._number += 1
        returned = (self._number, len(view))
        self._bodies[self._number] = ref(view.obj, partial(_note, self._returned, returned))
        self._bytes += len(view)
        return view


def _note(returned: deque[tuple[int, int]], which: tuple[int, int], _: object) -> None:
    """Called in whichever thread frees the last view; appending to a deque is safe in any."""
    returned.append(which)
