"""Fetch over both tiers: budgets, waiting, sessions, errors; cold data never holds up hot data."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from kio.schema.errors import ErrorCode

from hotlog.apis.fetch import general_way
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.parts import Limits
from hotlog.apis.fetch.rounds import Round
from hotlog.kernel.errors import StorageFailed
from hotlog.partitions.partition import Partition
from hotlog.wire import batch as batches
from hotlog.wire.fetch_request import VERSIONS, Wanted
from hotlog.wire.records import decode_batch
from hotlog.world.posix import PosixFile
from tests.support.faulty_store import Faults, FaultyStore
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import POLL_MS, Client, Serving, batch_of, fetch, fetched, parsed, produce, produced, serving
from tests.wire.tiered import SMALL_SEGMENTS, fill, no_store, tier_out

NONE = ErrorCode.none


def values_of(records: bytes) -> list[bytes]:
    """Values of all whole batches."""
    view = memoryview(records)
    return [
        record.value or b""
        for position, header in batches.walk(view)
        for record in decode_batch(view[position : position + header.size])
    ]


def partition_of(served: Serving, topic: str = "t", index: int = 0) -> Partition:
    found = served.broker.partition(topic, index)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def page_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is in memory: how budgets are shared differs for what is on the device."""
    monkeypatch.setattr(PosixFile, "read_at_nowait", PosixFile.read_at)


@pytest_asyncio.fixture(params=["short", "rounds", "general"])
async def served(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    """By each way: the short ones, without a glance, and the general one."""
    async with serving(tmp_path) as each:
        if request.param != "short":
            monkeypatch.setattr(general_way, "glance", lambda *arguments: None)
        if request.param == "general":
            without_short_ways(each)
        yield each


def without_short_ways(served: Serving) -> None:
    """Have every fetch go the general way."""
    for version in VERSIONS:
        del served.connections.dispatch.short_doors[(1 << 16) + version]


@pytest_asyncio.fixture
async def client(served: Serving) -> Client:
    await served.broker.create_topic("t", 3)
    return await served.connect()


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_version_returns_what_was_produced(served: Serving, client: Client, version: int) -> None:
    topic = served.broker.topic("t")
    assert topic is not None
    batch = batch_of(b"one", b"two")
    await client.call(produce("t", {1: batch}))
    response = await client.call(fetch("t", {1: 0}, version=version, topic_id=topic.topic_id))
    ((code, records),) = fetched(response).values()
    assert (code, values_of(records)) == (NONE, [b"one", b"two"])
    part = response.responses[0].partitions[0]
    assert (part.high_watermark, part.last_stable_offset, getattr(part, "log_start_offset", 0)) == (2, 2, 0)
    assert part.aborted_transactions is None


async def test_bytes_stay_as_they_were_sent_but_for_offset_and_epoch(client: Client) -> None:
    sent = batch_of(b"one", codec="zstd")
    await client.call(produce("t", {0: batch_of(b"before")}))
    await client.call(produce("t", {0: sent}))
    _, records = fetched(await client.call(fetch("t", {0: 1})))[0]
    assert records[16:] == bytes(sent[16:])
    assert batches.header_at(records).base_offset == 1


async def test_the_first_batch_comes_whole_and_only_one_partition_gets_that_grant(client: Client) -> None:
    for partition in range(3):
        await client.call(produce("t", {partition: batch_of(b"x" * 5000)}))
    response = await client.call(fetch("t", {0: 0, 1: 0, 2: 0}, bytes_max=100))
    assert [len(values_of(records)) for _, records in fetched(response).values()] == [1, 0, 0]
    response = await client.call(fetch("t", {0: 1, 1: 0, 2: 0}, partition_bytes_max=100))
    assert [len(values_of(records)) for _, records in fetched(response).values()] == [0, 1, 0]


async def test_the_budget_holds_over_all_partitions(client: Client) -> None:
    for partition in range(3):
        await fill(client, "t", 20, partition=partition, size=1000)
    response = await client.call(fetch("t", {0: 0, 1: 0, 2: 0}, bytes_max=30_000))
    sizes = [len(records) for _, records in fetched(response).values()]
    assert sum(sizes) <= 30_000
    assert sizes[0] > 20_000
    assert 0 < sizes[1] < 10_000


async def test_a_session_gives_every_partition_its_turn(client: Client) -> None:
    """With a budget for one partition at a time, three fetches of a session see all three."""
    for partition in range(3):
        await client.call(produce("t", {partition: batch_of(b"x" * 5000)}))
    response = await client.call(fetch("t", {0: 0, 1: 0, 2: 0}, bytes_max=5200, session=(0, 0)))
    seen = [index for index, (_, records) in fetched(response).items() if records]
    for epoch in (1, 2):
        response = await client.call(fetch("t", {}, bytes_max=5200, session=(response.session_id, epoch)))
        seen += [index for index, (_, records) in fetched(response).items() if records]
    assert seen == [0, 1, 2]


async def test_incremental_answers_are_empty_when_nothing_changed(client: Client) -> None:
    first = await client.call(fetch("t", {0: 0, 1: 0}, session=(0, 0)))
    assert first.session_id > 0
    assert len(fetched(first)) == 2
    assert fetched(await client.call(fetch("t", {}, session=(first.session_id, 1)))) == {}
    await client.call(produce("t", {1: batch_of(b"x")}))
    assert list(fetched(await client.call(fetch("t", {}, session=(first.session_id, 2))))) == [1]
    response = await client.call(fetch("t", {}, session=(first.session_id, 9)))
    assert response.error_code is ErrorCode.invalid_fetch_session_epoch
    response = await client.call(fetch("t", {}, session=(77, 1)))
    assert response.error_code is ErrorCode.fetch_session_id_not_found


async def test_a_poll_is_woken_by_an_append(served: Serving, client: Client) -> None:
    poll = fetch("t", {0: 0, 1: 0, 2: 0}, wait_ms=POLL_MS)
    correlation = client.send(poll)
    await served.working()
    writer = await served.connect()
    await writer.call(produce("t", {2: batch_of(b"news")}))
    answer = fetched(await client.answer(poll, correlation))
    assert [values_of(records) for _, records in answer.values()] == [[], [], [b"news"]]


async def test_a_poll_collects_until_min_bytes(served: Serving, client: Client) -> None:
    poll = fetch("t", {0: 0}, wait_ms=POLL_MS, bytes_min=2500)
    correlation = client.send(poll)
    writer = await served.connect()
    for _ in range(3):
        await writer.call(produce("t", {0: batch_of(b"x" * 1000)}))
    assert len(values_of(fetched(await client.answer(poll, correlation))[0][1])) == 3


async def test_a_poll_ends_empty_when_its_time_is_up_or_its_client_is_gone(served: Serving, client: Client) -> None:
    assert fetched(await client.call(fetch("t", {0: 0}, wait_ms=50))) == {0: (NONE, b"")}
    client.send(fetch("t", {0: 0}, wait_ms=POLL_MS))
    await served.working()
    await client.close()
    async with asyncio.timeout(PATIENCE_S):
        while served.connections.working:
            await asyncio.sleep(0.01)
    log = partition_of(served).log
    assert not log.marks._ears, "a poll that ended leaves nothing behind in the log"


@pytest.mark.parametrize(
    ("offset", "epoch", "code"),
    [
        (1, -1, NONE), (1, 0, NONE), (2, -1, NONE), (3, -1, ErrorCode.offset_out_of_range), (-1, -1, ErrorCode.offset_out_of_range),
        (2**62, -1, ErrorCode.offset_out_of_range), (1, 5, ErrorCode.unknown_leader_epoch),
    ],
)  # fmt: skip
async def test_offsets_and_epochs_are_checked(client: Client, offset: int, epoch: int, code: ErrorCode) -> None:
    await client.call(produce("t", {0: batch_of(b"a", b"b")}))
    assert fetched(await client.call(fetch("t", {0: offset}, leader_epoch=epoch)))[0][0] is code


async def test_an_older_leader_epoch_is_fenced(served: Serving, client: Client) -> None:
    partition_of(served).leader_epoch = 4
    assert fetched(await client.call(fetch("t", {0: 0}, leader_epoch=3)))[0][0] is ErrorCode.fenced_leader_epoch


async def test_an_error_of_one_partition_is_its_own(client: Client) -> None:
    await client.call(produce("t", {0: batch_of(b"a")}))
    answer = fetched(await client.call(fetch("t", {0: 0, 1: 9, 7: 0}, wait_ms=POLL_MS)))
    assert {index: code for index, (code, _) in answer.items()} == {
        0: NONE, 1: ErrorCode.offset_out_of_range, 7: ErrorCode.unknown_topic_or_partition,
    }  # fmt: skip
    assert values_of(answer[0][1]) == [b"a"]


async def test_an_unknown_topic_id_is_told_apart(client: Client) -> None:
    response = await client.call(fetch("t", {0: 0}, version=13, topic_id=UUID(int=5)))
    assert fetched(response)[0][0] is ErrorCode.unknown_topic_id


async def test_a_topic_made_again_under_the_same_name_is_another_topic(served: Serving, client: Client) -> None:
    topic = served.broker.topic("t")
    assert topic is not None
    poll = fetch("t", {0: 0}, version=13, topic_id=topic.topic_id, wait_ms=POLL_MS)
    correlation = client.send(poll)
    await served.working()
    assert await served.broker.delete_topics([topic.topic_id]) == [None]
    await served.broker.create_topic("t", 1)
    other = await served.connect()
    await other.call(produce("t", {0: batch_of(b"of the new topic")}))
    code, records = fetched(await client.answer(poll, correlation))[0]
    assert (code, records) in [(ErrorCode.unknown_topic_id, b""), (ErrorCode.unknown_topic_or_partition, b"")]


async def test_below_the_log_start_is_out_of_range(served: Serving, client: Client) -> None:
    await client.call(produce("t", {0: batch_of(b"a", b"b")}))
    await partition_of(served).delete_records(1)
    assert fetched(await client.call(fetch("t", {0: 0})))[0][0] is ErrorCode.offset_out_of_range
    response = await client.call(fetch("t", {0: 1}))
    assert values_of(fetched(response)[0][1]) == [b"a", b"b"]  # the batch that holds offset 1
    assert response.responses[0].partitions[0].log_start_offset == 1


# Both tiers


class Tiered:
    """Topic `cold`: its first 12 records only in the store; topic `hot`: all local."""

    def __init__(self, served: Serving, faults: Faults, client: Client, values: list[bytes]) -> None:
        self.served = served
        self.faults = faults
        self.client = client
        self.values = values


@pytest_asyncio.fixture
async def tiered(tmp_path: Path) -> AsyncIterator[Tiered]:
    faults = Faults()
    bare = {"hotlog.cache.memory.bytes": "0", "hotlog.cache.disk.bytes": "0", "hotlog.readahead.bytes": "0"}
    async with serving(
        tmp_path, {"remote.fetch.max.wait.ms": str(POLL_MS), **bare}, store=lambda own: FaultyStore(own, faults)
    ) as served:
        await served.broker.create_topic("cold", 2, SMALL_SEGMENTS)
        await served.broker.create_topic("hot", 1)
        client = await served.connect()
        values = await fill(client, "cold", 12)
        await tier_out(served.broker, partition_of(served, "cold"))
        assert partition_of(served, "cold").log.local_log_start_offset == 12
        yield Tiered(served, faults, client, values)
        faults.let_go()


async def test_cold_records_are_read_as_they_were(tiered: Tiered) -> None:
    found: list[bytes] = []
    while len(found) < 12:
        code, records = fetched(await tiered.client.call(fetch("cold", {0: len(found)}, wait_ms=POLL_MS)))[0]
        assert code is NONE
        found += values_of(records)
    assert found == tiered.values


async def asked(faults: Faults) -> None:
    """Until a read is held."""
    async with asyncio.timeout(PATIENCE_S):
        await faults.held.wait()


def both(**options: Any) -> Any:
    """One fetch of the cold topic's partition 0 and the hot topic's."""
    request = fetch("cold", {0: 0}, **options)
    return dataclasses.replace(request, topics=(*request.topics, *fetch("hot", {0: 0}).topics))


def by_topic(response: Any) -> dict[str, tuple[ErrorCode, list[bytes]]]:
    return {
        topic.topic: (part.error_code, values_of(part.records or b""))
        for topic in response.responses
        for part in topic.partitions
    }


async def test_hot_data_does_not_wait_for_cold_data_and_cold_data_still_comes(tiered: Tiered) -> None:
    await tiered.client.call(produce("hot", {0: batch_of(b"h")}))
    tiered.faults.hold_reads()
    answer = by_topic(await tiered.client.call(both(wait_ms=POLL_MS)))
    assert answer == {"cold": (NONE, []), "hot": (NONE, [b"h"])}
    await asked(tiered.faults)
    reads = tiered.faults.count("get")
    answer = by_topic(await tiered.client.call(both(wait_ms=POLL_MS)))
    assert answer["cold"] == (NONE, [])
    assert tiered.faults.count("get") == reads, "the same cold read is in flight once"
    tiered.faults.let_go()
    async with asyncio.timeout(PATIENCE_S):
        while not answer["cold"][1]:
            answer = by_topic(await tiered.client.call(both(wait_ms=0)))
    assert answer["hot"] == (NONE, [b"h"])
    assert answer["cold"][1] == tiered.values[: len(answer["cold"][1])]


async def test_an_append_wakes_a_fetch_that_waits_for_the_store(tiered: Tiered) -> None:
    tiered.faults.hold_reads()
    request = both(wait_ms=POLL_MS)
    correlation = tiered.client.send(request)
    await tiered.served.working()
    writer = await tiered.served.connect()
    await writer.call(produce("hot", {0: batch_of(b"h")}))
    answer = by_topic(parsed(1, 12, await tiered.client.frame(), correlation))
    assert answer == {"cold": (NONE, []), "hot": (NONE, [b"h"])}


async def test_a_store_that_is_away_is_an_empty_answer_after_the_wait_not_an_error_loop(tiered: Tiered) -> None:
    tiered.faults.reads_fail_with = no_store()
    tiered.served.broker.settings.values["remote.fetch.max.wait.ms"] = 100  # type: ignore[index]
    assert fetched(await tiered.client.call(fetch("cold", {0: 0}, wait_ms=50))) == {0: (NONE, b"")}
    assert tiered.faults.count("get") <= 12, "one look-up with the store's own retries, not a loop"
    tiered.faults.reads_fail_with = None
    async with asyncio.timeout(PATIENCE_S):
        records = b""
        while not records:
            _, records = fetched(await tiered.client.call(fetch("cold", {0: 0}, wait_ms=500)))[0]
    assert values_of(records)[0] == tiered.values[0]


async def test_damage_in_the_store_is_an_error_of_that_partition_only(tiered: Tiered) -> None:
    await tiered.client.call(produce("hot", {0: batch_of(b"h")}))
    tiered.faults.is_damaging = True
    codes: dict[str, Any] = {"cold": (NONE, [])}
    async with asyncio.timeout(PATIENCE_S):
        while codes["cold"][0] is NONE:
            codes = by_topic(await tiered.client.call(both(wait_ms=100)))
            assert codes["cold"][1] == [], "damaged bytes are not served"
    assert codes == {"cold": (ErrorCode.kafka_storage_error, []), "hot": (NONE, [b"h"])}


async def test_cold_and_hot_share_the_budget(tiered: Tiered) -> None:
    await fill(tiered.client, "hot", 20)
    answer: dict[str, tuple[ErrorCode, list[bytes]]] = {}
    async with asyncio.timeout(PATIENCE_S):
        while not answer or not answer["cold"][1]:
            answer = by_topic(await tiered.client.call(both(wait_ms=POLL_MS, bytes_max=8_000, bytes_min=8_000)))
            assert sum(len(v) for _, values in answer.values() for v in values) < 8_000
    assert 1 <= len(answer["hot"][1]) <= 4


async def test_a_cold_partition_alone_waits_for_the_store_beyond_max_wait(tiered: Tiered) -> None:
    tiered.faults.hold_reads()
    request = fetch("cold", {0: 0}, wait_ms=1)
    correlation = tiered.client.send(request)
    await asked(tiered.faults)
    tiered.faults.let_go()
    assert values_of(fetched(await tiered.client.answer(request, correlation))[0][1])[0] == tiered.values[0]


async def test_reads_outside_the_page_cache_go_to_a_thread(
    served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client, "t", 5)
    monkeypatch.setattr(partition_of(served), "read_now", lambda *args, **options: None)
    assert len(values_of(fetched(await client.call(fetch("t", {0: 0})))[0][1])) == 5


@pytest.fixture
def device(served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of any log is in the page cache."""
    for partition in served.broker.hosted():
        monkeypatch.setattr(partition, "read_now", lambda *args, **options: None)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("limit", [{"bytes_max": 100}, {"partition_bytes_max": 100}, {"partition_bytes_max": 0}])
async def test_the_first_batch_comes_whole_from_the_device(client: Client, limit: dict[str, int]) -> None:
    """A consumer whose limits are below a batch goes on, one batch an answer; only one partition gets that grant."""
    for partition in range(3):
        for value in (b"x" * 5000, b"y" * 5000):
            await client.call(produce("t", {partition: batch_of(value)}))
    position = 0
    while position < 2:
        answer = fetched(await client.call(fetch("t", {0: position, 1: 0, 2: 0}, **limit)))
        assert [len(values_of(records)) for _, records in answer.values()] == [1, 0, 0]
        position += 1
    answer = fetched(await client.call(fetch("t", {0: 2, 1: 0, 2: 0}, **limit)))
    assert [len(values_of(records)) for _, records in answer.values()] == [0, 1, 0]


@pytest.mark.usefixtures("device")
async def test_the_grant_goes_on_to_the_first_partition_that_has_data(
    served: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that always fails must not stand in the way of the others for ever."""
    for partition in range(3):
        await client.call(produce("t", {partition: batch_of(b"x" * 5000)}))

    async def fails(*args: Any, **options: Any) -> Any:
        raise StorageFailed("the disk has a hole here (test)")

    monkeypatch.setattr(served.broker.partition("t", 0), "read_disk", fails)
    answer = fetched(await client.call(fetch("t", {0: 0, 1: 0, 2: 0}, partition_bytes_max=100)))
    assert [code for code, _ in answer.values()] == [ErrorCode.kafka_storage_error, NONE, NONE]
    assert [len(values_of(records)) for _, records in answer.values()] == [0, 1, 0]


@pytest.mark.parametrize("limit", [{"bytes_max": 100}, {"partition_bytes_max": 100}, {"partition_bytes_max": 0}])
async def test_the_first_batch_comes_whole_from_the_store(tiered: Tiered, limit: dict[str, int]) -> None:
    """A consumer whose limits are below a batch reads the whole history, and the hot end behind it."""
    await fill(tiered.client, "cold", 2)
    tiered.served.broker.settings.values["remote.fetch.max.wait.ms"] = 2000  # type: ignore[index]
    found: list[bytes] = []
    empty = 0
    while len(found) < 14 and empty < 10:
        request = fetch("cold", {0: len(found), 1: 0}, wait_ms=2000, **limit)
        code, records = fetched(await tiered.client.call(request))[0]
        assert code is NONE
        assert len(values_of(records)) <= 1
        found += values_of(records)
        empty += not records
    assert found[:12] == tiered.values


async def test_a_round_reads_committed_data_only(served: Serving, client: Client) -> None:
    await client.call(produce("t", {0: batch_of(b"a")}))
    response = await client.call(fetch("t", {0: 0}, isolation=1))
    assert response.responses[0].partitions[0].aborted_transactions == ()
    assert values_of(fetched(response)[0][1]) == [b"a"]
    fetching = Round(served.broker, served.broker.kept[Fetches].cold_reads, [(("t", 0), Wanted(0, 1000))], Limits(1000, 1, True))
    fetching.look()
    assert fetching.is_satisfied
    assert fetching.parts[0].aborted == []


async def test_produce_then_fetch_of_every_codec(client: Client) -> None:
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        ((_, code, offset),) = produced(await client.call(produce("t", {0: batch_of(b"v", codec=codec)})))
        assert code is NONE
        assert values_of(fetched(await client.call(fetch("t", {0: offset})))[0][1]) == [b"v"]
