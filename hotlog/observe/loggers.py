"""Levels of this process's own loggers, asked for and changed while it runs (KIP-412).

A logger of a library is not among them: what it says at `debug` may hold what nobody is to read; HOTLOG_LOG can ask for it at the start.

Invariants: levels have Kafka's names; a change lasts as long as the process; the root logger always has a level.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from kio.schema.errors import ErrorCode

from hotlog.kernel.errors import InvalidConfig
from hotlog.observe.logs import OWN
from hotlog.wire.error_codes import Refused

LOG = logging.getLogger(__name__)
ROOT = "root"
TRACE = 5
LEVELS = {
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARN": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "TRACE": TRACE,
}
_NAMES = sorted(((level, name) for name, level in LEVELS.items()), reverse=True)
Levels = Mapping[str, str | None]


def levels() -> dict[str, str]:
    """The level of each logger; one that has none of its own has that of the next above it."""
    return {name: _name(_logger(name).getEffectiveLevel()) for name in [ROOT, *_own()]}


def check(wanted: Levels) -> None:
    """That loggers may be given these levels; None takes one away.

    Raises:
        InvalidConfig: no such logger, or no such level.  Refused: the root logger keeps its level.
    """
    known = {ROOT, *_own()}
    for name, level in wanted.items():
        if name not in known:
            raise InvalidConfig(f"there is no logger {name!r} of this broker")
        if level is None and name == ROOT:
            raise Refused(ErrorCode.invalid_request, "the level of the root logger cannot be taken away")
        if level is not None and level not in LEVELS:
            raise InvalidConfig(f"{level!r} is no level for {name}; expected one of {', '.join(LEVELS)}")


def change(wanted: Levels) -> None:
    """Give them, after `check`."""
    for name, level in wanted.items():
        _logger(name).setLevel(logging.NOTSET if level is None else LEVELS[level])
        LOG.warning("logger %s %s", name, "has no level of its own any more" if level is None else f"logs from {level} on")


def _own() -> list[str]:
    """Loggers of Hotlog that there are; those between them that nobody has asked for yet are none."""
    there = logging.Logger.manager.loggerDict
    return [name for name, logger in there.items() if isinstance(logger, logging.Logger) and name.partition(".")[0] in OWN]


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(None if name == ROOT else name)


def _name(level: int) -> str:
    """The nearest level that is not above."""
    return next((name for known, name in _NAMES if known <= level), "TRACE")
