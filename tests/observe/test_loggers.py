"""Levels of loggers while the process runs: which there are, what may be asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from hotlog.kernel.errors import InvalidConfig
from hotlog.observe import loggers
from hotlog.wire.error_codes import Refused

OURS = "hotlog.test.loggers"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    own = logging.getLogger(OURS)
    known = [logging.getLogger(), logging.getLogger("hotlog"), own]
    before = [logger.level for logger in known]
    yield
    for logger, level in zip(known, before, strict=True):
        logger.setLevel(level)


def test_levels_have_kafkas_names_and_only_our_own_loggers_are_told() -> None:
    logging.getLogger("botocore.auth")
    for name, level in loggers.LEVELS.items():
        logging.getLogger(OURS).setLevel(level)
        assert loggers.levels()[OURS] == name
    assert loggers.levels().keys() >= {"root", OURS}
    assert not any(name.startswith("botocore") for name in loggers.levels())
    with pytest.raises(InvalidConfig, match=r"botocore\.auth"):
        loggers.check({"botocore.auth": "DEBUG"})


def test_a_logger_without_a_level_has_that_above_it() -> None:
    loggers.change({"hotlog": "ERROR", OURS: "TRACE"})
    assert logging.getLogger(OURS).isEnabledFor(loggers.TRACE)
    loggers.change({OURS: None})
    assert loggers.levels()[OURS] == "ERROR"
    loggers.change({"root": "FATAL", "hotlog": None})
    assert loggers.levels()[OURS] == loggers.levels()["root"] == "FATAL"


def test_what_is_no_level_changes_nothing() -> None:
    for wanted in ({"root": None}, {OURS: "warn"}, {OURS: "OFF"}, {"no.such.logger": "INFO"}):
        with pytest.raises((InvalidConfig, Refused)):
            loggers.check({OURS: "INFO", **wanted})
