"""Committed offsets through a crash at every call of the disk, with and without loss of power, commits beside cleanings included."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from compaction.cleaner import Cleaner
from hotlog.coordinators import keyed_log
from hotlog.coordinators.group_log import GroupLog
from hotlog.coordinators.group_types import Group
from hotlog.coordinators.offset_records import GroupKey, GroupValue, OffsetKey, OffsetValue
from hotlog.coordinators.record_log import PartitionRecords
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.manager import LogManager
from tests.compaction.cleaning import cleaner_of
from tests.partitions.hosted import hosted
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.lives import die_in_every_call
from tests.sim.loop import SimLoop, run
from tests.sim.trace import Trace

TP = TopicPartition("__consumer_offsets", 0)
SETTINGS = Settings.resolve({"hotlog.disk.reserve.bytes": "0"})
CONFIG = TopicConfig.resolve({"cleanup.policy": "compact", "file.delete.delay.ms": "0"}, SETTINGS.topic_defaults())
PARTITIONS = 3
QUIET_EVERY = 25  # deaths: else each life leaves one more segment to walk, and none comes any further

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself


async def kept_short(table: GroupLog, cleaner: Cleaner) -> None:
    if table.keep_short():
        await cleaner.tick()


async def life(disk: SimDisk, clock: SimClock, said: dict[int, int], acked: dict[int, int]) -> None:
    """One process: replay, hold what was acked against it, commit some more."""
    manager = LogManager(clock, disk, SimEntropy(1), SETTINGS, Metrics(), "/data")
    await manager.open(config_of=lambda tp: CONFIG)
    log = manager.get(TP) or await manager.create(TP, UUID(int=1), CONFIG)
    table = GroupLog(PartitionRecords(hosted(log)), clock, SimEntropy(2))
    cleaner = cleaner_of(log, disk=disk, clock=clock, entropy=SimEntropy(3))
    await table.replay()
    if not table.has("quiet"):
        assert not acked, "it was acked before the first commit"
        await table.append([(GroupKey("quiet"), GroupValue(Group(group_id="quiet"), clock.now_ms()))])
    for partition, offset in acked.items():
        found = table.offsets("g").get(("clicks", partition))
        assert found is not None, "an acked commit is there"
        assert offset <= found.offset <= said[partition], "and nothing older, and nothing that was never said"
    for number in range(8):
        partition = number % PARTITIONS
        said[partition] = offset = said.get(partition, 0) + 1
        commit = table.append([(OffsetKey("g", "clicks", partition), OffsetValue(offset, -1, "m" * 200, clock.now_ms()))])
        await asyncio.gather(commit, kept_short(table, cleaner))
        assert table.offsets("g")["clicks", partition].offset == offset
        acked[partition] = offset
    assert table.group("quiet") is not None, "a group without a commit is written again as well"
    assert log.size < 6_000, "what is dead is given up"
    await manager.close()


@pytest.mark.parametrize("is_power_lost", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_crash_at_every_call_loses_no_acked_commit(seed: int, is_power_lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_log, "SEGMENT_BYTES", 900)

    async def main(loop: SimLoop) -> None:
        clock, trace = SimClock(loop), Trace(loop)
        disk = SimDisk(Machine(stream(seed, "disk")), clock, trace, Fuse())
        said: dict[int, int] = {}
        acked: dict[int, int] = {}

        async def live(disk: SimDisk) -> None:
            await life(disk, clock, said, acked)

        deaths = await die_in_every_call(loop, disk, live, power=is_power_lost, quiet_every=QUIET_EVERY)
        assert deaths > 100, "there were many places to die"
        assert min(acked.values()) > 10

    run(main)
