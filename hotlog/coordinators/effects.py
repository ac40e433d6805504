"""What a pure machine asks of the shard that drives it: values only, the same for every kind of coordinator.

Invariants: effects are carried out in their order; a Token is answered by exactly one Reply.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

Token = Hashable


class Reply(NamedTuple):
    """Answer the request that came with `token`."""

    token: Token
    result: Any


class Store(NamedTuple):
    """Write `value` to the log; if `is_awaited`, the machine is told the outcome."""

    value: Any
    is_awaited: bool


class Reverted(NamedTuple):
    """The event before a machine becomes again what the log says: whoever waits for an answer gets one."""


class Arm(NamedTuple):
    """(Re)start the timer `key`; when it is due it sends `event`."""

    key: Hashable
    delay_ms: int
    event: Any


class Disarm(NamedTuple):
    """Stop the timer `key`, if it runs."""

    key: Hashable


class Do(NamedTuple):
    """Have the shard do `what` outside of the log; the machine is told the outcome by an event."""

    what: Any


class Many(ABC):
    """Effects that are made one by one while they are carried out, so that thousands of them never take one long turn of the loop."""

    @abstractmethod
    def each(self) -> Iterator[Reply | Arm | Disarm]:
        """The effects, in their order; pure."""


class Write(NamedTuple):
    """Write `entries` (key, value or None), all or none, then answer the request of `token` with `result`.

    Where the log does not take them the answer is `refusal`, and the machine is again what the log says.
    """

    entries: Sequence[tuple[Any, Any]]
    token: Token | None
    result: Any
    refusal: Any


Effect = Reply | Store | Write | Arm | Disarm | Do | Many
