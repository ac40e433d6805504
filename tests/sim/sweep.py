"""A story told to its k-th call to disk or store: after each death a new life must find everything in order.

A seed that is whole (tests.sim.seeds) dies at every `stride`-th call, another set for each seed, and once more soon after the next start.  Any
other seed draws a few calls, and one to three deaths that follow.

Invariants: a death depends on its seed and its call alone, not on which others are tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from tests.sim.entropy import stream
from tests.sim.seeds import SEEDS, is_whole
from tests.sim.world import Life, SimWorld, simulate

FEW_CALLS = 300
AGAIN_MAX = 250  # a death that follows comes in one of so many first calls of its life


class Told(Protocol):
    """The workload; it goes on where the last life stopped."""

    async def tell(self, life: Life) -> None:
        """Start the node, look at what is there, do what is left to do, stop."""

    async def settle(self) -> None:
        """One more life, in which all comes to rest; then nothing may be out of place."""


@dataclass(frozen=True)
class Sweep:
    """The deaths of one story.

    Attributes:
        story: begins one in a new world.
        parts: of a whole seed, a test each.
        few: deaths of a seed that is not whole.
    """

    story: Callable[[SimWorld], Told]
    settings: dict[str, str]
    stride: int
    parts: int
    few: int

    def cases(self) -> list[tuple[int, int]]:
        """(seed, part) of each test of this run."""
        return [(seed, part) for seed in SEEDS for part in range(self.parts if is_whole(seed) else 1)]

    @cached_property
    def calls(self) -> int:
        """Calls of a story that nothing ends early."""
        total = simulate(0, self._undisturbed, settings=self.settings)
        assert total > FEW_CALLS, "the story has become too short to tell anything"
        return total

    async def _undisturbed(self, world: SimWorld) -> int:
        life = world.begin()
        story = self.story(world)
        assert await life.run(story.tell)
        await life.end("kill")
        await story.settle()
        return life.fuse.calls

    def deaths(self, seed: int, part: int) -> list[tuple[int, int]]:
        """The deaths of one test, each in a world of its own: in which call, and how many more soon after a start."""
        if is_whole(seed):
            return [(at, 1) for at in range(1, self.calls + 1) if at % self.stride == seed % self.stride][part :: self.parts]
        random = stream(seed, "deaths")
        return [(at, random.randint(1, 3)) for at in sorted(random.sample(range(1, self.calls + 1), self.few))]

    def die(self, seed: int, part: int) -> None:
        """Every death of one test."""
        for at, more in self.deaths(seed, part):
            try:
                simulate(
                    seed * 100_000 + at, lambda world, at=at, more=more: self._die_at(world, at, more), settings=self.settings
                )  # type: ignore[misc]
            except BaseException as failure:
                failure.add_note(f"the process died at call {at} of {self.calls}, seed {seed}")
                raise

    async def _die_at(self, world: SimWorld, at: int, more: int) -> None:
        """Die at call `at`, then soon after each of the next `more` starts: recovery is a story of its own."""
        story = self.story(world)
        life = world.begin(at=at)
        while not await life.run(story.tell):
            await life.end(world.random.choice(("kill", "power")))
            life = world.begin(at=world.random.randint(1, AGAIN_MAX) if world.lives <= more else None)
        await life.end("kill")
        await story.settle()
