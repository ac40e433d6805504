"""TaskScope: the first failure is what leaves, whatever the scope was doing when it came."""

from __future__ import annotations

import asyncio

import pytest

from hotlog.world.tasks import TaskScope


async def fail_after(event: asyncio.Event) -> None:
    await event.wait()
    raise ValueError("the child's failure")


async def test_a_failure_while_the_scope_waits_for_its_children_leaves_as_itself() -> None:
    """The owner is cancelled inside __aexit__; that cancellation is the scope's own and must not leak."""
    event = asyncio.Event()
    with pytest.raises(ValueError, match="child's failure"):
        async with TaskScope("test") as scope:
            scope.spawn(fail_after(event))
            slow = scope.spawn(asyncio.Event().wait())
            event.set()
    assert slow.cancelled()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_a_failure_while_the_body_runs_leaves_as_itself() -> None:
    event = asyncio.Event()
    with pytest.raises(ValueError, match="child's failure"):
        async with TaskScope("test") as scope:
            scope.spawn(fail_after(event))
            event.set()
            await asyncio.Event().wait()


async def test_cancelling_the_owner_cancels_the_children() -> None:
    started = asyncio.Event()
    children: list[asyncio.Task[bool]] = []

    async def own() -> None:
        async with TaskScope("test") as scope:
            children.append(scope.spawn(asyncio.Event().wait()))
            started.set()

    owner = asyncio.ensure_future(own())
    await started.wait()
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert children[0].cancelled()
