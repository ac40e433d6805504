"""A controller in the simulated world: a bucket and a machine outlive the processes that use them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from controller.changes import Accepted, Change, Plan
from controller.config_rules import Scope
from controller.image import ClusterImage
from controller.metadata import Metadata
from controller.peers import ALONE, Peers
from controller.records import Record, TopicCreated
from hotlog.kernel.errors import AlreadyExists
from hotlog.kernel.settings import Settings
from hotlog.world import ports
from tests.sim.bucket import Bucket
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.network import SimNet
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

    def metadata(
        self,
        machine: str = "a",
        *,
        fuse: Fuse | None = None,
        node_id: int = 1,
        is_adopting: bool = False,
        peers: Peers = ALONE,
        settings: dict[str, str] | None = None,
    ) -> Metadata:
        """A new process on `machine`; one that was there before is dead.  `is_adopting`: it may take another machine's place."""
        fuse = fuse or Fuse()
        store, network = (
            SimStore(self.bucket, self.trace, fuse),
            SimNet(self.loop, stream(self.seed, "network")).host(machine, fuse),
        )
        return Metadata(
            ports.World(self.clock, self.disk(machine, fuse), network, store, self.entropy),
            directory="/data/metadata", settings=Settings.resolve({**(settings or {}), "node.id": str(node_id)}),
            take_over=allow if is_adopting else None, peers=peers,
        )  # fmt: skip

    @asynccontextmanager
    async def opened(self, machine: str = "a", **options: Any) -> Any:
        metadata = self.metadata(machine, **options)
        await metadata.open()
        try:
            yield metadata
        finally:
            await metadata.close()


def simulate(body: Callable[[World], Coroutine[Any, Any, None]], seed: int = 0) -> None:
    async def main(loop: SimLoop) -> None:
        await body(World(loop, seed))

    run(main)


@dataclass(frozen=True, kw_only=True)
class Raw(Change):
    """Records as they are, whatever the rules say about them."""

    TYPE = "raw"
    records: tuple[Record, ...]

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        return Plan(self.records, (Accepted(),))


@dataclass(frozen=True, kw_only=True)
class Create(Change):
    """Create topics as large as one likes, with few rules; AlreadyExists if one is there."""

    TYPE = "create"
    names: tuple[str, ...]
    topic_ids: tuple[UUID, ...]
    padding: int

    def plan(self, image: ClusterImage, scope: Scope) -> Plan:
        records = []
        for name, topic_id in zip(self.names, self.topic_ids, strict=True):
            if name in image.topics:
                raise AlreadyExists(name)
            configs = {"padding": "x" * self.padding} if self.padding else {}
            records.append(TopicCreated(topic_id=topic_id, name=name, partitions=((1,),), configs=configs, created_ms=0))
        return Plan(tuple(records), tuple(Accepted() for _ in records))


def create(name: str, topic_id: UUID, *, padding: int = 0) -> Create:
    return Create(names=(name,), topic_ids=(topic_id,), padding=padding)
