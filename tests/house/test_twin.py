"""The twin test covers all that is served: every API in every version that Kafka speaks too has a story, every difference has a reason."""

from __future__ import annotations

import re

import pytest

from hotlog.front.dispatch import load_apis
from tests.twin.comparing import MISSING
from tests.twin.differences import TABLE
from tests.twin.keys import Key, shared
from tests.twin.telling import all_stories


@pytest.mark.parametrize("api", load_apis(), ids=lambda api: api.name)
def test_every_version_has_a_story(api: object) -> None:
    key = Key(api.key)  # type: ignore[attr-defined]
    told = {versions[key] for story in all_stories().values() for versions in story.rounds if key in versions}
    assert sorted(set(shared().get(key, ())) - told) == [], f"no story in tests/twin/stories is about {key.word}"


def test_names_of_apis_are_those_of_the_doors() -> None:
    assert [Key(api.key).word for api in load_apis()] == [api.name for api in load_apis()]


def test_rows_have_reasons_and_stand_in_order() -> None:
    assert [row.api for row in TABLE] == sorted(row.api for row in TABLE)
    assert [row.field for row in TABLE if not row.why.strip()] == []


def test_a_row_says_not_yet_of_nothing_that_is_served() -> None:
    served = {str(api.key) for api in load_apis()}
    absent = {
        key for row in TABLE if row.api is Key.API_VERSIONS and row.hotlog is MISSING for key in re.findall(r"\d+", row.field)
    }
    assert absent & served == set()
