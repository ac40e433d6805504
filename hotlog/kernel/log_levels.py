"""HOTLOG_LOG: a level for Hotlog's own loggers, and levels of single loggers after it.

    debug
    info,hotlog.front=debug,botocore=info

Invariants: pure; what is no level is refused and named.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from hotlog.kernel.errors import Invalid

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class Levels(NamedTuple):
    """The level of Hotlog's own loggers, and of those that were named."""

    own: int = logging.INFO
    named: Mapping[str, int] = {}


def parse_levels(text: str) -> Levels:
    """HOTLOG_LOG as levels; empty is `info`.

    Raises:
        Invalid: naming the part that is none.
    """
    own, named = logging.INFO, {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, mark, level = part.rpartition("=")
        if level.strip().lower() not in LEVELS or (mark and not name.strip()):
            raise Invalid(f"HOTLOG_LOG={part!r}; allowed are {', '.join(LEVELS)}, or LOGGER=LEVEL, separated by commas")
        if mark:
            named[name.strip()] = LEVELS[level.strip().lower()]
        else:
            own = LEVELS[level.strip().lower()]
    return Levels(own, named)
