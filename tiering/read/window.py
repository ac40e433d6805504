"""How far to read ahead of one sequential cold reader.  Pure: numbers in, a window in bytes out.

The window is in offset space: the driver spends it over as many objects as it covers.  It doubles each time the reader
had to wait, and shrinks towards what the reader's own pace needs when it did not; so a slow consumer costs one chunk ahead and a fast
one keeps several ranges in flight.

Invariants: 0 <= window <= the bound given; a reader that jumps starts over with no window; no clock is read here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hotlog.kernel.limits import CHUNK_BYTES, RANGE_BYTES_MAX

IDLE_S = 60.0  # a reader silent for longer starts over
_PACE_WEIGHT = 0.3
_SAFETY = 3.0  # windows are this many times what pace * latency says


@dataclass(frozen=True, slots=True)
class Stream:
    """One sequential reader.  `window_bytes` is how far ahead of it the cache shall be; pace in bytes per second."""

    window_bytes: int = 0
    pace: float = 0.0
    last_s: float = 0.0
    reads: int = 0


def on_read(
    stream: Stream | None, *, now_s: float, size: int, has_waited: bool, get_seconds: float, window_bytes_max: int
) -> Stream:
    """The stream after a read of `size` bytes that continued it (None: the first read at this place).

    `has_waited`: the reader had to wait for the store; `get_seconds`: what one range takes at present.
    """
    if stream is None or now_s - stream.last_s > IDLE_S:
        return Stream(last_s=now_s, reads=1)
    elapsed = max(now_s - stream.last_s, 1e-4)
    pace = size / elapsed if stream.reads == 1 else stream.pace + _PACE_WEIGHT * (size / elapsed - stream.pace)
    window = _window(stream.window_bytes, pace, get_seconds, has_waited)
    return replace(
        stream,
        window_bytes=max(0, min(window, window_bytes_max)),
        pace=pace,
        last_s=now_s,
        reads=stream.reads + 1,
    )


def _window(before: int, pace: float, get_seconds: float, has_waited: bool) -> int:
    if before == 0:
        return RANGE_BYTES_MAX  # the second read in a row: it is going somewhere
    if has_waited:
        return before * 2
    needed = max(CHUNK_BYTES, int(pace * get_seconds * _SAFETY))
    if before > 2 * needed:
        return max(needed, before * 3 // 4)
    return before
