"""ListOffsets and OffsetForLeaderEpoch over both tiers, and the table of error codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from kio.schema.errors import ErrorCode

from hotlog.kernel import errors
from hotlog.wire import apis
from hotlog.wire.error_codes import Refused, code_for, is_expected, message_for
from tests.support.faulty_store import Faults, FaultyStore
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client, Serving, batch_of, produce, serving
from tests.wire.tiered import SMALL_SEGMENTS, fill, no_store, tier_out

START = 1_600_000_000_000
NONE = ErrorCode.none


class Half:
    """Topic t: offsets 0 to 11 only in the store, 12 to 15 only local; one record a second from START on."""

    def __init__(self, served: Serving, faults: Faults, client: Client) -> None:
        self.served = served
        self.faults = faults
        self.client = client

    async def list(
        self, timestamp: int, *, version: int = 11, epoch: int = -1, index: int = 0
    ) -> tuple[ErrorCode, int, int, int]:
        """(code, offset, timestamp, leader epoch)."""
        shapes = apis.requests(2, version)
        part = shapes.ListOffsetsPartition(partition_index=index, current_leader_epoch=epoch, timestamp=timestamp)
        topic = shapes.ListOffsetsTopic(name="t", partitions=(part,))
        request = shapes.ListOffsetsRequest(
            replica_id=-1, isolation_level=0, topics=(topic,), timeout=timedelta(seconds=PATIENCE_S)
        )
        found = (await self.client.call(request)).topics[0].partitions[0]
        return found.error_code, found.offset, found.timestamp, getattr(found, "leader_epoch", -1)


@pytest_asyncio.fixture
async def half(tmp_path: Path) -> AsyncIterator[Half]:
    faults = Faults()
    bare = {
        "hotlog.cache.memory.bytes": "0", "hotlog.cache.disk.bytes": "0", "hotlog.readahead.bytes": "0",
        "remote.list.offsets.request.timeout.ms": str(int(PATIENCE_S * 1000)),
    }  # fmt: skip
    async with serving(tmp_path, bare, store=lambda own: FaultyStore(own, faults)) as served:
        await served.broker.create_topic("t", 1, SMALL_SEGMENTS)
        client = await served.connect()
        await fill(client, "t", 12)
        partition = served.broker.partition("t", 0)
        assert partition is not None
        await tier_out(served.broker, partition)
        for number in range(12, 16):
            await client.call(produce("t", {0: batch_of(b"hot", timestamp=START + number * 1000)}))
        yield Half(served, faults, client)


@pytest.mark.parametrize("version", range(1, 12))
async def test_latest_and_earliest_in_every_version(half: Half, version: int) -> None:
    epoch = 0 if version >= 4 else -1
    assert await half.list(-1, version=version) == (NONE, 16, -1, epoch)
    code, offset, timestamp, _ = await half.list(-2, version=version)
    assert (code, offset, timestamp) == (NONE, 0, -1)


@pytest.mark.parametrize(("position", "offset"), [(-4, 12), (-5, 11), (-6, 12)])
async def test_named_positions_of_the_tiers(half: Half, position: int, offset: int) -> None:
    assert (await half.list(position))[:2] == (NONE, offset)


@pytest.mark.parametrize(("position", "version"), [(-3, 6), (-4, 7), (-5, 8), (-6, 10), (-7, 11)])
async def test_a_position_newer_than_the_version_is_refused(half: Half, position: int, version: int) -> None:
    assert (await half.list(position, version=version))[0] is ErrorCode.unsupported_version


@pytest.mark.parametrize(
    ("timestamp", "offset"),
    [(0, 0), (START, 0), (START + 1, 1), (START + 5000, 5), (START + 11_000, 11), (START + 11_001, 12), (START + 15_000, 15)],
)
async def test_times_are_found_in_the_tier_that_has_them(half: Half, timestamp: int, offset: int) -> None:
    assert (await half.list(timestamp))[:3] == (NONE, offset, START + offset * 1000)


async def test_a_time_after_the_last_record_has_no_offset(half: Half) -> None:
    assert await half.list(START + 15_001) == (NONE, -1, -1, -1)


async def test_the_largest_timestamp_over_both_tiers(half: Half) -> None:
    assert (await half.list(-3))[:3] == (NONE, 15, START + 15_000)


async def test_times_respect_the_log_start(half: Half) -> None:
    partition = half.served.broker.partition("t", 0)
    assert partition is not None
    await partition.delete_records(7)
    assert (await half.list(START))[:3] == (NONE, 7, START + 7000)
    assert (await half.list(-2))[1] == 7


async def test_a_store_that_is_away_is_a_timeout_for_times_and_nothing_for_ends(half: Half) -> None:
    half.faults.reads_fail_with = no_store()
    assert (await half.list(-1))[:2] == (NONE, 16)
    assert (await half.list(-2))[:2] == (NONE, 0)
    assert (await half.list(START + 3000))[0] is ErrorCode.request_timed_out


async def test_leader_epochs_are_checked(half: Half) -> None:
    assert (await half.list(-1, epoch=0))[0] is NONE
    assert (await half.list(-1, epoch=3))[0] is ErrorCode.unknown_leader_epoch
    assert (await half.list(-1, index=9))[0] is ErrorCode.unknown_topic_or_partition


async def test_an_empty_log_has_ends_and_no_times(half: Half) -> None:
    await half.served.broker.create_partitions("t", 2)
    assert (await half.list(-1, index=1))[:2] == (NONE, 0)
    assert (await half.list(-3, index=1))[:2] == (NONE, -1)
    assert (await half.list(-5, index=1))[:2] == (NONE, -1)
    assert (await half.list(5, index=1))[:2] == (NONE, -1)


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize(("epoch", "found"), [(0, (0, 16)), (5, (-1, -1))])
async def test_epoch_ends(half: Half, version: int, epoch: int, found: tuple[int, int]) -> None:
    shapes = apis.requests(23, version)
    part = shapes.OffsetForLeaderPartition(partition=0, current_leader_epoch=-1, leader_epoch=epoch)
    topic = shapes.OffsetForLeaderTopic(topic="t", partitions=(part,))
    answer = (await half.client.call(shapes.OffsetForLeaderEpochRequest(replica_id=-1, topics=(topic,)))).topics[0].partitions[0]
    assert (answer.error_code, (answer.leader_epoch, answer.end_offset)) == (NONE, found)


async def test_epochs_older_than_the_local_log_are_found_in_the_store(half: Half) -> None:
    partition = half.served.broker.partition("t", 0)
    assert partition is not None
    partition.log.set_leader_epoch(3)
    partition.leader_epoch = 3
    await half.client.call(produce("t", {0: batch_of(b"new epoch", timestamp=START + 16_000)}))
    await tier_out(half.served.broker, partition)
    partition.log.epochs.truncate_start(17)  # as on a log that began after the tiered part
    assert partition.log.epochs.entries == ((3, 17),)
    shapes = apis.requests(23, 4)
    part = shapes.OffsetForLeaderPartition(partition=0, current_leader_epoch=3, leader_epoch=0)
    topic = shapes.OffsetForLeaderTopic(topic="t", partitions=(part,))
    answer = (await half.client.call(shapes.OffsetForLeaderEpochRequest(replica_id=-1, topics=(topic,)))).topics[0].partitions[0]
    assert (answer.leader_epoch, answer.end_offset) == (0, 16)


# Error codes


def leaves(kind: type[errors.HotlogError]) -> list[type[errors.HotlogError]]:
    below = [leaf for each in kind.__subclasses__() if each.__module__ == errors.__name__ for leaf in leaves(each)]
    return [kind, *below]


@pytest.mark.parametrize("kind", leaves(errors.HotlogError)[1:])
def test_every_error_of_ours_has_a_code_and_keeps_its_words(kind: type[errors.HotlogError]) -> None:
    error = kind("the thing, its value, what is allowed")
    assert code_for(error) is not ErrorCode.unknown_server_error
    assert message_for(error) == "the thing, its value, what is allowed"
    assert is_expected(error)


@pytest.mark.parametrize("kind", [errors.Retry, errors.StoreUnavailable, errors.NotReady, errors.DiskFull, errors.StorageFailed])
def test_weather_is_retriable(kind: type[errors.HotlogError]) -> None:
    assert code_for(kind("x")).retriable


def test_what_nobody_foresaw_is_unknown_and_says_nothing_of_the_inside() -> None:
    assert code_for(KeyError("secret")) is ErrorCode.unknown_server_error
    assert "secret" not in message_for(KeyError("secret"))
    assert not is_expected(KeyError("secret"))
    assert code_for(Refused(ErrorCode.policy_violation, "no")) is ErrorCode.policy_violation
