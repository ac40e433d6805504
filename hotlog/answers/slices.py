"""Requests that name thousands of partitions or groups are answered a slice at a time, so that other clients get their turn.

Invariants: others get their turn after at most SLICE elements; requests narrower than that are answered without a turn between.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")
_FIELDS: dict[type[Any], tuple[str, ...]] = {}  # of kio's structures: as many as there are
SLICE = 256  # elements handled in one turn of the loop; about 1 ms


async def breathe() -> None:
    """A turn for others."""
    await asyncio.sleep(0)


async def sliced(items: Sequence[A], make: Callable[[A], B]) -> list[B]:
    """`[make(item) for item in items]`, with turns for others."""
    made: list[B] = []
    async for some in slices(items):
        made += map(make, some)
    return made


async def slices(items: Sequence[A]) -> AsyncIterator[Sequence[A]]:
    """`items` in runs of at most SLICE, with a turn for others between."""
    for at in range(0, len(items), SLICE):
        if at:
            await breathe()
        yield items[at : at + SLICE]


async def gathered(items: Sequence[A], ask: Callable[[A], Awaitable[B]]) -> list[B | BaseException]:
    """What `ask` says of each, or raises: SLICE at once."""
    found: list[B | BaseException] = []
    async for some in slices(items):
        found += await asyncio.gather(*map(ask, some), return_exceptions=True)
    return found


def is_wide(entity: Any) -> bool:
    """Whether a kio structure has more than SLICE elements in all."""
    return _count(entity, 0) > SLICE


def _count(entity: Any, count: int) -> int:
    kind = type(entity)
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(field.name for field in dataclasses.fields(entity))
    for name in names:
        value = getattr(entity, name)
        if type(value) is not tuple:
            continue
        count += len(value)
        if count > SLICE:
            return count
        if value and dataclasses.is_dataclass(value[0]):
            for each in value:
                count = _count(each, count)
    return count
