"""One seed tells one story, byte for byte: in two processes with different hash seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.seeds import SEEDS, WHOLE_SEEDS, is_whole
from tests.sim.test_ninety_days import SMALL, WHOLE, Calendar, ninety_days
from tests.sim.world import SimWorld, simulate
from tests.tools.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


# Seeds by 20 to a process, once they are small: a start costs more than such a story.
FIRST, SMALL_AT_ONCE = 11, 20
WHOLE_ONES = [(FIRST + seed,) for seed in SEEDS if is_whole(seed)]
SMALL_ONES = [
    tuple(FIRST + seed for seed in range(start, min(start + SMALL_AT_ONCE, SEEDS.stop)))
    for start in range(max(SEEDS.start, WHOLE_SEEDS), SEEDS.stop, SMALL_AT_ONCE)
]


def story(seed: int, days: int, calendar: Calendar = WHOLE) -> bytes:
    """The whole trace of a run.  A small one is too short to settle: less came than retention by size keeps."""

    async def main(world: SimWorld) -> bytes:
        await ninety_days(world, days=days, calendar=calendar, settles=calendar is WHOLE)
        return "\n".join(world.trace.lines).encode()

    return simulate(seed, main, settings=calendar.settings, whole_trace=True)


def told_elsewhere(seeds: tuple[int, ...], hash_seed: int) -> bytes:
    """The stories of these seeds, told by another process."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__, *map(str, seeds)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout


@pytest.mark.parametrize("seeds", [*WHOLE_ONES, *SMALL_ONES], ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_same_seed_same_story_whatever_the_hash_seed(seeds: tuple[int, ...]) -> None:
    one, two = told_elsewhere(seeds, 1), told_elsewhere(seeds, 2)
    assert len(one) > 100_000
    if one != two:
        pairs = zip(one.decode().split("\n"), two.decode().split("\n"), strict=False)
        number, (left, right) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        pytest.fail(f"seeds {seeds}: line {number} differs:\n  {left}\n  {right}")


def test_another_seed_another_story() -> None:
    assert story(13, 2) != story(14, 2)


def tell(seeds: list[int]) -> None:
    """Four days of a whole seed; six small days, which are one of its, of any other."""
    for seed in seeds:
        sys.stdout.buffer.write(story(seed, 4) if is_whole(seed - FIRST) else story(seed, 6, SMALL))
        sys.stdout.buffer.write(b"\n")


if __name__ == "__main__":
    tell([int(seed) for seed in sys.argv[1:]])
