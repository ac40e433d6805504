"""One seed tells one story, byte for byte: in two processes with different hash seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.test_ninety_days import SEEDS, SETTINGS, ninety_days
from tests.sim.world import SimWorld, simulate
from tests.tools.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def story(seed: int, days: int) -> bytes:
    """The whole trace of a run."""

    async def main(world: SimWorld) -> bytes:
        await ninety_days(world, days=days)
        return "\n".join(world.trace.lines).encode()

    return simulate(seed, main, settings=SETTINGS, whole_trace=True)


def told_elsewhere(seed: int, days: int, hash_seed: int) -> bytes:
    """The same, told by another process."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__, str(seed), str(days)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout


@pytest.mark.parametrize("seed", range(11, 11 + SEEDS))
def test_same_seed_same_story_whatever_the_hash_seed(seed: int) -> None:
    one, two = told_elsewhere(seed, 4, 1), told_elsewhere(seed, 4, 2)
    assert len(one) > 100_000
    if one != two:
        pairs = zip(one.decode().split("\n"), two.decode().split("\n"), strict=False)
        number, (left, right) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        pytest.fail(f"seed {seed}: line {number} differs:\n  {left}\n  {right}")


def test_another_seed_another_story() -> None:
    assert story(13, 2) != story(14, 2)


if __name__ == "__main__":
    sys.stdout.buffer.write(story(int(sys.argv[1]), int(sys.argv[2])))
