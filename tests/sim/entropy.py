"""Seeded randomness.

Invariants: a stream depends on the seed and its own name only, never on the hash seed or on how much another stream was used.
"""

from __future__ import annotations

from random import Random
from uuid import UUID


def stream(seed: int, name: str) -> Random:
    """The random stream called `name` of the run `seed`."""
    return Random(f"{seed}/{name}")  # a str seed goes through SHA-512, not through hash()


class SimEntropy:
    """Entropy port on one stream."""

    def __init__(self, seed: int, name: str = "entropy") -> None:
        self._random = stream(seed, name)

    def uuid(self) -> UUID:
        return UUID(bytes=self._random.randbytes(16), version=4)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)
