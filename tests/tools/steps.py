"""How much Python runs before others have their turn on the event loop: bytecode steps, not time.

A step counter sees what Python does, not what one call into C does (sorted, copies of dicts).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from types import FrameType
from typing import Any, NamedTuple

_CALLBACK = asyncio.Handle._run.__code__  # asyncio's own loop calls it for every callback; uvloop does not


class Steps(NamedTuple):
    """Of one piece of work: all its steps, and the most that one callback of the loop took."""

    total: int
    most: int


async def count_steps(work: Awaitable[Any]) -> Steps:
    """Await `work` and count the bytecode steps of this thread meanwhile; what else is on the loop counts too."""
    total = most = in_callback = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal total, most, in_callback
        if frame.f_code is _CALLBACK:
            in_callback = 0
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            total += 1
            in_callback += 1
            most = max(most, in_callback)
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 tells of opcodes only if some frame asked for them before settrace
    sys.settrace(trace)
    try:
        await work
    finally:
        sys.settrace(before)
    return Steps(total, most)
