"""Log lines: their stamps, levels that say more about Hotlog only, JSON, and credentials that never get out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from hotlog.kernel.errors import Invalid
from hotlog.kernel.log_levels import Levels, parse_levels
from hotlog.observe import logs

STAMP = r"2026-01-02T03:04:05.678Z"
CREATED_S = 1767323045.678


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What these tests set up is undone."""
    root = logging.getLogger()
    names = [*logs.OWN, "hotlog.front", "botocore", "apscheduler"]
    before = root.level, list(root.handlers), {name: logging.getLogger(name).level for name in names}
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


def emit(stream: io.StringIO, name: str, level: int, message: str, *args: object, exc_info: Any = None, extra: Any = None) -> str:
    """What one record becomes."""
    start = len(stream.getvalue())
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        record = logger.makeRecord(name, level, __file__, 1, message, args, exc_info, extra=extra)
        record.created = CREATED_S
        logger.handle(record)
    return stream.getvalue()[start:]


def test_a_line_has_its_time_with_the_zone() -> None:
    stream = io.StringIO()
    logs.set_up(parse_levels(""), as_json=False, stream=stream)
    assert emit(stream, "hotlog.serve", logging.INFO, "%d topics", 3) == f"{STAMP} INFO hotlog.serve: 3 topics\n"


def test_levels_say_more_about_hotlog_and_about_what_is_named_only() -> None:
    stream = io.StringIO()

    def heard(levels: str, level: int) -> set[str]:
        logs.set_up(parse_levels(levels), as_json=False, stream=stream)
        names = ("hotlog.log.x", "tiering.y", "compaction", "controller", "botocore.auth", "asyncio")
        return {name for name in names if emit(stream, name, level, "fine")}

    own = {"hotlog.log.x", "tiering.y", "compaction", "controller"}
    assert heard("info", logging.INFO) == own
    assert heard("info", logging.DEBUG) == set()
    assert heard("debug", logging.DEBUG) == own
    assert heard("warning,tiering=debug, botocore=DEBUG", logging.DEBUG) == {"tiering.y", "botocore.auth"}
    assert parse_levels("error,a=debug") == Levels(logging.ERROR, {"a": logging.DEBUG})
    logs.set_up(parse_levels("info"), as_json=False, stream=stream)
    assert emit(stream, "asyncio", logging.WARNING, "slow") != ""


@pytest.mark.parametrize("text", ["nope", "10", "info,,=debug", "hotlog=loud", "debug;info"])
def test_what_is_no_level_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(Invalid, match="debug, info, warning, error, critical"):
        parse_levels(text)


def test_json_has_one_object_a_line_with_what_was_said_beside_the_words() -> None:
    stream = io.StringIO()
    logs.set_up(parse_levels(""), as_json=True, stream=stream)
    line = emit(stream, "hotlog.serve", logging.INFO, "%d topics\nin two lines", 3, extra={"topics": 3})
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "event": "3 topics\nin two lines", "level": "info", "logger": "hotlog.serve", "time": STAMP, "topics": 3,
    }  # fmt: skip
    try:
        raise ValueError("what went wrong")
    except ValueError as wrong:
        told = json.loads(emit(stream, "tiering", logging.ERROR, "failed", exc_info=(ValueError, wrong, wrong.__traceback__)))
    assert "ValueError: what went wrong" in told["exception"]


@pytest.mark.parametrize("as_json", [False, True])
def test_no_line_has_a_credential(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEBYaDK")
    stream = io.StringIO()
    logs.set_up(parse_levels("debug,botocore=debug"), as_json=as_json, stream=stream)
    said = "key wJalrXUtnFEMI/K7MDENG token FwoGZXIvYXdzEBYaDK at http://me:mine@127.0.0.1:9000/x"
    line = emit(stream, "botocore.auth", logging.DEBUG, said)
    assert "key *** token *** at http://***@127.0.0.1:9000/x" in line
