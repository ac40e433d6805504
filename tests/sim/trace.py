"""What happened in a run, as text: the story that one seed must tell byte for byte, again and again.

Invariants: a line holds virtual time and names, never an address, a set or a real clock.
"""

from __future__ import annotations

import hashlib
from collections import deque

from tests.sim.loop import SimLoop

LINES_KEPT = 4_000


class Trace:
    """Lines with a running digest; the newest LINES_KEPT are kept (all of them with `whole`)."""

    def __init__(self, loop: SimLoop, *, whole: bool = False) -> None:
        self._loop = loop
        self._digest = hashlib.blake2b(digest_size=16)
        self.lines: deque[str] = deque(maxlen=None if whole else LINES_KEPT)
        self.count = 0

    def add(self, who: str, what: str) -> None:
        line = f"{self._loop.time():.6f} {who} {what}"
        self._digest.update(line.encode() + b"\n")
        self.lines.append(line)
        self.count += 1

    def digest(self) -> str:
        return self._digest.hexdigest()

    def tail(self, count: int = 40) -> str:
        return "\n".join(list(self.lines)[-count:])
