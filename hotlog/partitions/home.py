"""What a partition asks of whoever hosts it."""

from __future__ import annotations

from typing import Protocol


class Home(Protocol):
    """Who hosts partitions: hotlog.partitions.hosting.Hosting."""

    @property
    def has_tier(self) -> bool:
        """Whether this broker has a cold tier at all."""
        ...

    @property
    def awaits_store(self) -> bool:
        """Whether a partition without a cold tier may still get one: the store is only away."""
        ...
