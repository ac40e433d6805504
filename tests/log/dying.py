"""A log on a simulated machine, and the processes that open it one after the other; each may end in one of its disk calls."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from tests.log.support import TP
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.lives import lived, next_life
from tests.sim.loop import SimLoop, run
from tests.sim.trace import Trace


class Story:
    """What is done with the log of `topic` over all lives, in an order that the seed gives; what a kind of story adds is `live` and `check`.

    Args:
        name: of the stream of random numbers.
    """

    def __init__(self, loop: SimLoop, seed: int, topic: TopicConfig, name: str) -> None:
        self.loop = loop
        self.seed = seed
        self.topic = topic
        self.random = stream(seed, name)
        self.clock = SimClock(loop)
        self.fuse = Fuse()
        self.disk = SimDisk(Machine(stream(seed, "disk")), self.clock, Trace(loop), self.fuse)

    async def live(self, logs: LogManager) -> None:
        """Go on with the story to its end, and stop."""
        raise NotImplementedError

    async def check(self, logs: LogManager) -> None:
        """Hold what a start found against what is known."""
        raise NotImplementedError

    async def open(self, at: int | None = None) -> LogManager:
        """Start; the process dies in disk call `at`, counted from its beginning."""
        self.fuse.at = at
        settings = Settings.resolve({"hotlog.disk.reserve.bytes": "0"})
        logs = LogManager(self.clock, self.disk, SimEntropy(1), settings, Metrics(), "/data")
        await logs.open(config_of=lambda tp: self.topic)
        return logs

    def log_of(self, logs: LogManager) -> PartitionLog:
        assert logs.failures == {}
        log = logs.get(TP)
        assert log is not None
        return log

    async def begin(self, at: int) -> None:
        """The first life, until its death."""
        await lived(self.fuse, self._begin(at))

    async def recover(self, at: int) -> None:
        """A life that only starts, until its death."""
        await lived(self.fuse, self._recover(at))

    async def go_on(self, at: int) -> None:
        """A later life, until its death."""
        await lived(self.fuse, self._go_on(at))

    async def _begin(self, at: int) -> None:
        await self.live(await self.open(at))

    async def _recover(self, at: int) -> None:
        await self.check(await self.open(at))

    async def _go_on(self, at: int) -> None:
        logs = await self.open(at)
        await self.check(logs)
        await self.live(logs)

    async def die(self, *, power: bool) -> None:
        """The process ends, by a loss of power or by kill -9."""
        self.fuse = Fuse()
        self.disk = await next_life(self.loop, self.disk, self.fuse, power=power)


S = TypeVar("S", bound=Story)


def undisturbed(begun: Callable[[SimLoop], S]) -> S:
    """A story that nothing ends early."""

    async def main(loop: SimLoop) -> S:
        story = begun(loop)
        await story.live(await story.open())
        return story

    return run(main)


def die_once(begun: Callable[[SimLoop], Story], at: int, *, power: bool, again: int | None = None) -> None:
    """Die in call `at`, then, unless `again` is None, in that call of the next start: what is found then is in order, goes on, and is found again."""

    async def main(loop: SimLoop) -> None:
        story = begun(loop)
        await story.begin(at)
        await story.die(power=power)
        if again is not None:
            await story.recover(again)
            await story.die(power=power)
        logs = await story.open()
        await story.check(logs)
        await story.live(logs)
        await story.check(await story.open())

    _run(main, f"{begun}: died in call {at}, and in {again} of the next life, {power=}")


def kill_then_lose_power(begun: Callable[[SimLoop], Story], at: int, again: int) -> None:
    """Be killed in call `at`, and lose power in call `again` of the life that follows."""

    async def main(loop: SimLoop) -> None:
        story = begun(loop)
        await story.begin(at)
        await story.die(power=False)
        await story.go_on(again)
        await story.die(power=True)
        await story.check(await story.open())

    _run(main, f"{begun}: killed in call {at}, without power in call {again} of the next life")


def _run(main: Callable[[SimLoop], Coroutine[Any, Any, None]], note: str) -> None:
    try:
        run(main)
    except BaseException as failure:
        failure.add_note(note)
        raise
