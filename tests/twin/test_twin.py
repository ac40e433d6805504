"""Every story told to Hotlog and to Apache Kafka: what differs has a row with its reason, and every row is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clients.conftest import not_here
from tests.tools.cache import ToolMissing
from tests.twin.performing import Performance, not_allowed, perform_once, rows_without_use
from tests.twin.telling import all_stories

STORIES = all_stories()


@pytest.fixture(scope="session")
def performance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Performance:
    """The stories that are wanted, or all where one of the tests is about all of them; told once for all workers."""
    ours = [item for item in request.session.items if item.path == Path(__file__) and isinstance(item, pytest.Function)]
    wanted = {item.callspec.params["name"] for item in ours if hasattr(item, "callspec")}
    if any(not hasattr(item, "callspec") for item in ours):
        wanted = set(STORIES)
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "twin"
    folder.mkdir(exist_ok=True)
    try:
        return perform_once([STORIES[name] for name in sorted(wanted)], folder)
    except ToolMissing as why:
        not_here("Apache Kafka", why)


@pytest.mark.parametrize("name", sorted(STORIES))
def test_both_tell_the_same_story(name: str, performance: Performance) -> None:
    strange, troubles = not_allowed(performance, name), performance[name].troubles
    assert troubles == [], "\n".join([*troubles, *map(str, strange[:20])])
    assert strange == [], "\n".join(["differences without a row in tests/twin/differences.py:", *map(str, strange[:20])])


@pytest.mark.parametrize("name", sorted(STORIES))
def test_a_story_asks_what_it_says_it_is_about(name: str, performance: Performance) -> None:
    declared = {(int(key), version) for versions in STORIES[name].rounds for key, version in versions.items()}
    assert declared - performance[name].asked == set()


def test_every_row_is_needed(performance: Performance) -> None:
    assert [f"{row.api.word} {row.field}: {row.why}" for row in rows_without_use(performance)] == []
