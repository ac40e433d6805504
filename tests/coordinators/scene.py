"""A coordinator in virtual time on a disk of its own, and members of its groups."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from uuid import UUID

from controller.image import ClusterImage, PartitionImage, TopicImage
from hotlog.coordinators.group_types import Code, JoinRequest
from hotlog.coordinators.service import Commit, Committer, GroupCoordinator
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from tests.partitions.hosted import hosted
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.trace import Trace

TP = TopicPartition("__consumer_offsets", 0)
SETTINGS = Settings.resolve(
    {"hotlog.disk.reserve.bytes": "0", "group.initial.rebalance.delay.ms": "0", "offsets.retention.minutes": "10080"}
)
CONFIG = TopicConfig.resolve({"cleanup.policy": "compact"}, SETTINGS.topic_defaults())


class Everything(Mapping[str, TopicImage]):
    """Every topic there may be, each of 10,000 partitions."""

    _ALL = (PartitionImage(replicas=(), leader=0, leader_epoch=0),) * 10_000  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> TopicImage:
        return TopicImage(topic_id=UUID(int=1), name=name, partitions=self._ALL, configs={}, created_ms=0)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


SIMPLE = Committer("", None, -1, 9)  # a consumer without a group


class Scene:
    """One disk and clock; a coordinator for each life."""

    def __init__(self, loop: SimLoop, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.clock = SimClock(loop)
        self.disk = SimDisk(Machine(stream(1, "disk")), self.clock, Trace(loop), Fuse())
        self.manager: LogManager | None = None
        self.log: PartitionLog | None = None  # of the partition, while it is led here
        self.image = ClusterImage(topics=Everything())

    async def opened_log(self) -> PartitionLog:
        """The log as a process that starts finds it."""
        manager = self.manager = LogManager(self.clock, self.disk, SimEntropy(1), self.settings, Metrics(), "/data")
        await manager.open(config_of=lambda tp: CONFIG)
        return manager.get(TP) or await self.created_log(manager)

    async def created_log(self, manager: LogManager) -> PartitionLog:
        return await manager.create(TP, UUID(int=1), CONFIG)

    async def life(self) -> GroupCoordinator:
        """A process's."""
        self.log = await self.opened_log()

        async def nothing() -> None:
            return

        groups = GroupCoordinator(
            settings=lambda: self.settings,
            clock=self.clock,
            entropy=SimEntropy(2),
            partition_of=lambda index: hosted(self.log) if self.log is not None else None,
            ensure_topic=nothing,
            partition_count=lambda: 1,
            image=lambda: self.image,
            hosting_version=itertools.count().__next__,  # a log may be another one at any time
        )
        await groups.start()
        return groups

    async def end(self, groups: GroupCoordinator) -> None:
        await groups.close()
        assert self.manager is not None
        await self.manager.close()


def play(story: Callable[[Scene], Awaitable[None]], settings: Settings = SETTINGS) -> None:
    async def main(loop: SimLoop) -> None:
        await story(Scene(loop, settings))

    run(main)


class Member:
    def __init__(
        self,
        groups: GroupCoordinator,
        group: str = "g",
        session_ms: int = 10_000,
        *,
        rebalance_ms: int | None = None,
        instance_id: str | None = None,
    ) -> None:
        self.groups, self.group, self.session_ms, self.instance_id = groups, group, session_ms, instance_id
        self.rebalance_ms = rebalance_ms or session_ms
        self.member_id, self.generation = "", -1

    async def join(self) -> None:
        """Join and sync, until the group is stable with this member."""
        await self.join_alone()
        await self.sync()

    async def join_alone(self) -> None:
        asked = JoinRequest(
            member_id=self.member_id, instance_id=self.instance_id, client_id="c", client_host="h",
            session_timeout_ms=self.session_ms, rebalance_timeout_ms=self.rebalance_ms, protocol_type="consumer",
            protocols=(("range", b""),), needs_known_id=False, can_skip_assignment=False,
        )  # fmt: skip
        joined = await self.groups.join(self.group, asked)
        assert joined.code is Code.NONE
        self.member_id, self.generation = joined.member_id, joined.generation

    async def sync(self) -> None:
        synced = await self.groups.sync(
            self.group, member_id=self.member_id, instance_id=self.instance_id, generation=self.generation, protocol_type=None,
            protocol=None, assignments={self.member_id: b"all"},
        )  # fmt: skip
        assert synced.code is Code.NONE

    def heartbeat(self) -> Code:
        return self.groups.heartbeat(self.group, self.member_id, None, self.generation)

    async def commit(self, offset: int, *, generation: int | None = None) -> Code:
        codes = await self.groups.commit(
            self.group,
            Committer(self.member_id, self.instance_id, self.generation if generation is None else generation, 9),
            [Commit("clicks", 0, offset, -1, None)],
        )
        return codes["clicks", 0]


async def commit(groups: GroupCoordinator, group: str, *partitions: int, offset: int = 1) -> None:
    commits = [Commit("clicks", partition, offset, -1, None) for partition in partitions or (0,)]
    codes = await groups.commit(group, SIMPLE, commits)
    assert set(codes.values()) == {Code.NONE}


async def all_work(groups: GroupCoordinator) -> int:
    """Tick until there is nothing to do; how many ticks did something."""
    for ticks in range(10_000):
        if not await groups.tick():
            return ticks
    raise AssertionError("upkeep finds work for ever")
