"""A controller in the simulated world: a bucket and a machine outlive the processes that use them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from controller.image import ClusterImage
from controller.records import Record, TopicCreated
from controller.service import Controller
from hotlog.kernel.errors import AlreadyExists
from tests.sim.bucket import Bucket
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.store import SimStore
from tests.sim.trace import Trace


async def allow(image: ClusterImage) -> None:
    """What another data directory has may be given up."""


class World:
    """What stays when processes end."""

    def __init__(self, loop: SimLoop, seed: int = 0) -> None:
        self.loop = loop
        self.clock = SimClock(loop)
        self.trace = Trace(loop)
        self.bucket = Bucket(self.clock, stream(seed, "store"))
        self.machines: dict[str, SimDisk] = {}
        self.entropy = SimEntropy(seed)
        self.seed = seed
        self.is_power_lost = False  # whether a process that dies takes the machine's power with it

    def disk(self, machine: str, fuse: Fuse) -> SimDisk:
        if machine not in self.machines:
            self.machines[machine] = SimDisk(Machine(stream(self.seed, machine)), self.clock, self.trace, fuse)
        else:
            was = self.machines[machine]
            self.machines[machine] = was.lose_power(fuse) if self.is_power_lost else was.kill(fuse)
        return self.machines[machine]

    def controller(
        self, machine: str = "a", *, fuse: Fuse | None = None, node_id: int = 1, is_adopting: bool = False
    ) -> Controller:
        """A new process on `machine`; one that was there before is dead.  `is_adopting`: it may take another machine's place."""
        fuse = fuse or Fuse()
        return Controller(
            SimStore(self.bucket, self.trace, fuse), clock=self.clock, disk=self.disk(machine, fuse),
            entropy=self.entropy, directory="/data/metadata", node_id=node_id,
            take_over=allow if is_adopting else None,
        )  # fmt: skip

    @asynccontextmanager
    async def opened(self, machine: str = "a", **options: Any) -> Any:
        controller = self.controller(machine, **options)
        await controller.open()
        try:
            yield controller
        finally:
            await controller.close()


def simulate(body: Callable[[World], Coroutine[Any, Any, None]], seed: int = 0) -> None:
    async def main(loop: SimLoop) -> None:
        await body(World(loop, seed))

    run(main)


def create(name: str, topic_id: UUID, *, padding: int = 0) -> Callable[[ClusterImage], list[Record]]:
    """Decide to create a topic; AlreadyExists if it is there."""

    def decide(image: ClusterImage) -> list[Record]:
        if name in image.topics:
            raise AlreadyExists(name)
        configs = {"padding": "x" * padding} if padding else {}
        return [TopicCreated(topic_id=topic_id, name=name, partitions=((1,),), configs=configs, created_ms=0)]

    return decide
