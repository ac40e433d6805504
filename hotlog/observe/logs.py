"""What a process logs, and in which words: one line a record for people, or one JSON object (structlog).

Libraries are heard from WARNING on unless HOTLOG_LOG names them, so that `debug` says more about Hotlog and not about its HTTP client.

Invariants: a stamp has its zone (UTC) and milliseconds; a line is never more than one record, and no line has a credential of this process.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from hotlog.kernel.log_levels import Levels

OWN = ("hotlog", "tiering", "compaction", "controller")
_QUIET = {"apscheduler": logging.ERROR}  # a tick that is still at work is no news
_SECRET_NAMES = re.compile(r"SECRET|PASSWORD|SESSION_TOKEN")
_SECRET_CHARS_MIN = 8
_USERINFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
HIDDEN = "***"


def set_up(levels: Levels, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error) from now on, and to nothing else."""
    handler = _Discreet(stream or sys.stderr, secrets_of(os.environ))
    handler.setFormatter(_json() if as_json else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(levels.own, logging.WARNING))
    for name, level in {**_QUIET, **dict.fromkeys(OWN, levels.own), **levels.named}.items():
        logging.getLogger(name).setLevel(level)


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values that must not be logged, the longest first."""
    found = {value for name, value in environment.items() if _SECRET_NAMES.search(name) and len(value) >= _SECRET_CHARS_MIN}
    escaped = {json.dumps(value)[1:-1] for value in found}
    return tuple(sorted(found | escaped, key=len, reverse=True))


def stamp(created_s: float) -> str:
    """A record's time, seconds since the epoch, as RFC 3339 in UTC."""
    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Discreet(logging.StreamHandler[TextIO]):
    """Hides credentials in finished lines, whoever wrote them."""

    def __init__(self, stream: TextIO, secrets: tuple[str, ...]) -> None:
        super().__init__(stream)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return _USERINFO.sub(HIDDEN + "@", line)


class _Text(logging.Formatter):
    """`STAMP LEVEL LOGGER: MESSAGE`, a traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return stamp(record.created)


def _json() -> logging.Formatter:
    import structlog

    def when(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["time"] = stamp(event["_record"].created)
        return event

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[when, structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str, sort_keys=True),
        ],
    )
