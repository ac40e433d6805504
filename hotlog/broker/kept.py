"""What rooms above the broker keep between requests: one object of each kind, made when it is first asked for.

Invariants: a broker knows none of the kinds; a kind is made once for a broker, and closed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

K = TypeVar("K")


class Kept(dict[Callable[[Any], Any], Any]):
    """`broker.kept[Kind]` is this broker's `Kind(broker)`.  A kind with `async def close()` is closed before the logs are."""

    def __init__(self, broker: object) -> None:
        super().__init__()
        self._broker = broker

    if TYPE_CHECKING:

        def __getitem__(self, kind: Callable[[Any], K]) -> K: ...

    def __missing__(self, kind: Callable[[Any], Any]) -> Any:
        made = self[kind] = kind(self._broker)
        return made

    async def close(self) -> None:
        """Close what wants to be closed, in the order in which it was made."""
        for one in list(self.values()):
            if hasattr(one, "close"):
                await one.close()
