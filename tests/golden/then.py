"""`hotlog` as it would run at another time: its clock is HOTLOG_TEST_EARLIER_MS behind.

Golden data keeps what expires: offsets of groups, producer ids, garbage that waits for its time.  A broker that believes to run right after
the data was made finds all of it, in whichever year the test runs.
"""

from __future__ import annotations

import os
import time

from hotlog.__main__ import main
from hotlog.world.posix import SystemClock

EARLIER_MS = int(os.environ["HOTLOG_TEST_EARLIER_MS"])


def now_ms(self: SystemClock) -> int:
    return int(time.time() * 1000) - EARLIER_MS


if __name__ == "__main__":
    SystemClock.now_ms = now_ms  # type: ignore[method-assign]
    main()
