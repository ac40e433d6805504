"""Which seeds HOTLOG_SIM_SEEDS names."""

from __future__ import annotations

import pytest

from tests.sim.seeds import WHOLE_SEEDS, is_whole, seeds_of


def test_a_number_is_how_many_and_a_range_is_which() -> None:
    assert seeds_of("3") == range(3)
    assert seeds_of("20:60") == range(20, 60)


@pytest.mark.parametrize("text", ["0", "5:5", "-3", "9:2", "-1:2", "many", "", "3:"])
def test_what_names_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        seeds_of(text)


def test_the_first_seeds_are_whole_and_the_others_are_not() -> None:
    assert [is_whole(seed) for seed in (0, WHOLE_SEEDS - 1, WHOLE_SEEDS, 499)] == [True, True, False, False]
