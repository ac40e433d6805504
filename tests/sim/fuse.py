"""A process life: counts every call to the outside and ends at the one it was told to.

Invariants: after the fuse blew nothing of this life reaches the outside any more, whatever its `finally` blocks try.
"""

from __future__ import annotations

import asyncio


class Crashed(BaseException):
    """The process is dead.  A BaseException, so that no `except Exception` of the code under test survives it."""


class Fuse:
    """Shared by the ports of one life; `at` is the number of the call that kills (None: none)."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.calls = 0
        self.blown = False
        self.label = ""
        self._event = asyncio.Event()

    def check(self) -> None:
        if self.blown:
            raise Crashed(self.label)

    def tick(self, label: str) -> bool:
        """Count a call; True if the process dies in it (the caller does what it does half way and then calls `blow`)."""
        self.check()
        self.calls += 1
        return self.at is not None and self.calls >= self.at

    def blow(self, label: str) -> Crashed:
        """End this life; raise what is returned."""
        self.blown = True
        self.label = f"call {self.calls}: {label}"
        self._event.set()
        return Crashed(self.label)

    async def wait(self) -> None:
        await self._event.wait()
