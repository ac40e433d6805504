"""The list of planted bugs is current: each can be planted, and its test is there.  `make mutants` plants them."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.bugs import ROOT, Bug, load_bugs

BUGS = load_bugs()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_still_fits(bug: Bug) -> None:
    planted = bug.planted_in((ROOT / bug.file).read_text("utf-8"))
    if bug.file.endswith(".py"):
        ast.parse(planted)
    for test in bug.tests:
        path, _, name = test.partition("::")
        source = (ROOT / path).read_text("utf-8")
        assert f"def {name.split('::')[-1].split('[')[0]}(" in source, f"{test} is not there"


def test_names_are_given_once() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
