"""The readahead decider: windows follow need, and never leave their bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.limits import CHUNK_BYTES, RANGE_BYTES_MAX, MiB
from tiering.read.window import IDLE_S, Stream, on_read

LIMIT = 64 * MiB


def reads(count: int, *, every_s: float, has_waited: bool, stream: Stream | None = None, get_seconds: float = 0.1) -> Stream:
    now = stream.last_s if stream else 0.0
    for _ in range(count):
        now += every_s
        stream = on_read(stream, now_s=now, size=MiB, has_waited=has_waited, get_seconds=get_seconds, window_bytes_max=LIMIT)
    assert stream is not None
    return stream


def test_one_read_is_not_a_pattern_two_are() -> None:
    assert reads(1, every_s=0.1, has_waited=True).window_bytes == 0
    assert reads(2, every_s=0.1, has_waited=True).window_bytes == RANGE_BYTES_MAX


def test_a_reader_that_waits_gets_more_up_to_the_bound() -> None:
    assert reads(3, every_s=0.01, has_waited=True).window_bytes == 2 * RANGE_BYTES_MAX
    assert reads(30, every_s=0.01, has_waited=True).window_bytes == LIMIT


def test_a_slow_reader_comes_down_to_what_it_needs() -> None:
    fast = reads(30, every_s=0.01, has_waited=True)
    slow = reads(60, every_s=1.0, has_waited=False, stream=fast)
    assert slow.window_bytes <= 2 * CHUNK_BYTES, "1 MiB a second needs no more than a chunk or two ahead"


def test_a_fast_reader_that_never_waits_keeps_its_window() -> None:
    fast = reads(10, every_s=0.005, has_waited=True)
    assert reads(50, every_s=0.005, has_waited=False, stream=fast).window_bytes == fast.window_bytes


def test_a_reader_that_was_away_starts_over() -> None:
    fast = reads(10, every_s=0.01, has_waited=True)
    assert reads(1, every_s=IDLE_S + 1, has_waited=True, stream=fast) == Stream(last_s=fast.last_s + IDLE_S + 1, reads=1)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 100 * MiB), st.booleans(), st.floats(0, 30)), max_size=30),
    st.integers(0, 256 * MiB),
)
def test_windows_stay_within_their_bound(steps: list[tuple[float, int, bool, float]], limit: int) -> None:
    stream, now = None, 0.0
    for elapsed, size, has_waited, get_seconds in steps:
        now += elapsed
        stream = on_read(stream, now_s=now, size=size, has_waited=has_waited, get_seconds=get_seconds, window_bytes_max=limit)
        assert 0 <= stream.window_bytes <= limit
