"""Stored structures in the version before, in this one, and in one that is not known."""

from __future__ import annotations

import pytest

from hotlog.kernel.errors import Corrupt, HotlogError, UnknownVersion
from hotlog.kernel.versions import StoredFormat

THING: StoredFormat[dict[str, int]] = StoredFormat(
    "thing", 3, {1: lambda value: {**value, "b": value["a"]}, 2: lambda value: {**value, "c": value["b"] + 1}}
)


@pytest.mark.parametrize(("version", "value"), [(1, {"a": 1}), (2, {"a": 1, "b": 1}), (3, {"a": 1, "b": 1, "c": 2})])
def test_what_is_older_goes_up_step_by_step(version: int, value: dict[str, int]) -> None:
    assert THING.upgraded(version, value) == {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        (4, UnknownVersion, "objects/x: thing has format version 4; .* up to version 3: a newer one wrote it"),
        (0, Corrupt, "reads versions 1 to 3"),
        (-1, Corrupt, "reads versions 1 to 3"),
    ],
)
def test_other_versions_are_refused_by_name(version: int, error: type[HotlogError], message: str) -> None:
    with pytest.raises(error, match=message):
        THING.upgraded(version, {}, "objects/x")


def test_a_table_with_a_missing_step_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="a step"):
        StoredFormat("thing", 3, {1: lambda value: value})
