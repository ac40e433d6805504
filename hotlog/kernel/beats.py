"""What a periodic job is, for those who list them and those who call them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Beat(NamedTuple):
    """A worker's tick (True: there is more to do at once) and how often it is due, in seconds."""

    name: str
    tick: Callable[[], Awaitable[bool]]
    interval_s: float
