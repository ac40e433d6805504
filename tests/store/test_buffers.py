"""Receive buffers: used again when nobody looks at them any more, and never before."""

from __future__ import annotations

import asyncio
import random
from ctypes import Array

from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.limits import MiB
from tests.tools.narrow import TAKEN_BYTES_MAX, narrow, open_narrow
from tiering.store.buffers import SLACK_BYTES, Buffers


def test_a_buffer_comes_back_when_its_last_view_is_gone() -> None:
    buffers = Buffers(idle_bytes_max=64 * MiB)
    view = buffers.buffer_of(4 * MiB)
    view[:4] = b"mine"
    part = view[100:200].toreadonly()[50:]
    del view
    other = buffers.buffer_of(4 * MiB)
    assert bytes(other[:4]) == bytes(4), "a slice of a slice keeps it"
    del part, other
    assert buffers.idle_bytes == 8 * MiB
    marks = {bytes(each[:4]) for each in (buffers.buffer_of(4 * MiB), buffers.buffer_of(4 * MiB))}
    assert marks == {b"mine", bytes(4)}, "both are used again"
    assert buffers.idle_bytes == 8 * MiB


async def test_what_a_transport_still_sends_is_not_written_over() -> None:
    """The cache has forgotten it, the client has not read it."""
    got = bytearray()
    may_read = asyncio.Event()
    done = asyncio.Event()

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await may_read.wait()
        while piece := await reader.read(1 * MiB):
            got.extend(piece)
        writer.close()
        done.set()

    server = await asyncio.start_server(read_late, "127.0.0.1", 0)
    narrow(server.sockets)
    _, writer = await open_narrow(*server.sockets[0].getsockname()[:2])
    buffers = Buffers(idle_bytes_max=64 * MiB)
    view = buffers.buffer_of(16 * MiB)
    view[:] = b"a" * len(view)
    writer.write(view.toreadonly())
    assert writer.transport.get_write_buffer_size() > 16 * MiB - TAKEN_BYTES_MAX
    del view
    for _ in range(3):
        next_one = buffers.buffer_of(16 * MiB)
        next_one[:] = b"b" * len(next_one)
        del next_one
    may_read.set()
    writer.close()
    await done.wait()
    assert bytes(got) == b"a" * (16 * MiB)
    server.close()
    await server.wait_closed()


def test_idle_buffers_are_bounded() -> None:
    buffers = Buffers(idle_bytes_max=8 * MiB)
    views = [buffers.buffer_of(4 * MiB) for _ in range(10)]
    assert buffers.idle_bytes == 0
    views.clear()
    assert buffers.idle_bytes == 40 * MiB, "nobody has looked yet"
    buffers.buffer_of(4 * MiB)
    assert buffers.idle_bytes <= 12 * MiB
    for size in (5 * MiB, 7 * MiB, 6 * MiB, 3 * MiB):
        buffers.buffer_of(size)
        assert buffers.idle_bytes <= 8 * MiB + size + SLACK_BYTES


def test_a_buffer_is_hardly_larger_than_what_was_asked_for() -> None:
    """The cache counts the lengths of its views: they must be what is held."""
    buffers = Buffers(idle_bytes_max=64 * MiB)
    del_me = buffers.buffer_of(16 * MiB)
    del del_me
    small = buffers.buffer_of(4 * MiB)
    assert isinstance(small.obj, Array)
    assert (len(small), len(small.obj)) == (4 * MiB, 4 * MiB)
    odd = buffers.buffer_of(3 * MiB + 1)
    assert isinstance(odd.obj, Array)
    assert len(odd) <= len(odd.obj) < len(odd) + SLACK_BYTES


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3 * MiB)), max_size=40), st.integers(0, 2**32))
def test_living_views_never_share_memory(steps: list[tuple[int, int]], seed: int) -> None:
    chance = random.Random(seed)
    buffers = Buffers(idle_bytes_max=2 * MiB)
    alive: dict[int, tuple[memoryview, bytes]] = {}
    for slot, size in steps:
        alive.pop(slot, None)
        view, mark = buffers.buffer_of(size), chance.randbytes(8)
        view[-1:] = mark[:1]
        view[: len(mark)] = mark[: len(view)]
        alive[slot] = view.toreadonly(), bytes(view[:8])
        assert len(view) == size
        del view
        for each, head in alive.values():
            assert bytes(each[:8]) == head
