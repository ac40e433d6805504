"""The short way of Fetch against the general one: what clients are answered, and what becomes of a fetch that waits."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kio.schema.errors import ErrorCode

from hotlog.apis.fetch import short_way, waits
from hotlog.apis.fetch.short_way import Places
from hotlog.wire.batch import header_at
from hotlog.wire.fetch_request import VERSIONS
from tests.tools.patience import PATIENCE_S
from tests.wire.polling import Ways, append, is_left_alone, partition_of, sent_poll, until_waiting, waiting
from tests.wire.serving import POLL_MS, Serving, batch_of, fetch, fetched, frame_of, parsed, produce, serving
from tests.wire.test_produce_short import held_syncs

NONE = ErrorCode.none
MIB = 1 << 20


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    return Ways(monkeypatch)


async def test_a_client_sees_no_difference(tmp_path: Path, ways: Ways) -> None:
    """The same requests to two brokers, one without short ways, in bursts and one by one: the same answers."""
    chance = random.Random(5)
    choices = {"hotlog.durability": "page-cache"}
    async with serving(tmp_path / "a", choices) as quick, serving(tmp_path / "b", choices) as slow:
        slow.connections.dispatch.short_doors.clear()
        both = quick, slow
        ids = [(await served.broker.create_topic("t", 3)).topic_id for served in both]
        clients = [await served.connect() for served in both]
        producers = 0
        for _ in range(120):
            if chance.random() < 0.5:
                index, size = chance.randrange(3), chance.choice([1, 100, 9_000, 200_000])
                is_open = chance.random() < 0.1
                producers += is_open
                for served in both:
                    append(partition_of(served, index), size, producer=producers if is_open else -1)
            if chance.random() < 0.05:
                for served in both:
                    await partition_of(served, 1).delete_records(-1)
            burst = [some_fetch(chance) for _ in range(chance.choice([1, 1, 5, 30]))]
            answers: list[list[bytes]] = []
            for client, topic_id in zip(clients, ids, strict=True):
                requests = [fetch("t", **each, topic_id=topic_id) for each in burst]
                for request in requests:
                    client.send(request)
                answers.append([(await client.frame()).replace(topic_id.bytes, b"i" * 16) for _ in requests])
            assert answers[0] == answers[1]
        for name in ("kafka_network_requests_total", "kafka_network_request_errors_total"):
            assert quick.counted(name, api="Fetch") == slow.counted(name, api="Fetch")
        metric = "kafka_server_brokertopicmetrics_bytesout_total"
        assert quick.counted(metric, topic="t") == slow.counted(metric, topic="t") > 0
    assert ways.short > 300


def some_fetch(chance: random.Random) -> dict[str, Any]:
    """What a request says, but for the topic's id."""
    version = chance.choice(list(VERSIONS))
    offsets = {chance.choice([0, 1, 2, 9]): chance.choice([0, 0, 1, 2, 5, 10, 20, 10_000, -1])}
    if chance.random() < 0.1:
        offsets[2] = 0
    return {
        "offsets": offsets, "version": version, "isolation": chance.choice([0, 0, 1]), "bytes_min": chance.choice([0, 1, 1, 500]),
        "partition_bytes_max": chance.choice([0, 100, 5_000, MIB]), "bytes_max": chance.choice([50, 20_000, 50 * MIB]),
        "leader_epoch": chance.choice([-1, -1, 0, 0, 3]), "wait_ms": chance.choice([0, 0, 0, 1]),
    }  # fmt: skip


# What waits


@pytest_asyncio.fixture
async def served(tmp_path: Path, ways: Ways) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as each:
        await each.broker.create_topic("t", 2)
        yield each


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_poll_is_answered_by_the_next_append(served: Serving, ways: Ways, version: int) -> None:
    client = await served.connect()
    topic = served.broker.topic("t")
    assert topic is not None
    request, correlation = await sent_poll(served, client, version=version, topic_id=topic.topic_id)
    append(partition_of(served), 100)
    ((code, records),) = fetched(await client.answer(request, correlation)).values()
    assert (code, len(records)) == (NONE, header_at(records).size)
    assert is_left_alone(served) and ways.short == 1
    assert served.connections.held_bytes == 0


async def test_all_that_ask_the_same_are_answered_by_one_read(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they call themselves; who asks otherwise has his own."""
    clients = [await served.connect() for _ in range(40)]
    sent = []
    for number, client in enumerate(clients):
        size = MIB if number % 4 else 2 * MIB
        request = fetch("t", {0: 0}, wait_ms=POLL_MS, partition_bytes_max=size)
        sent.append((request, client.send(request, client_id=f"c{number}")))
    await until_waiting(served, len(clients))
    partition, reads = partition_of(served), 0
    read_now = partition.read_now

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return read_now(*arguments, **options)

    monkeypatch.setattr(partition, "read_now", counted)
    append(partition, 20_000)
    answers = [await client.answer(*each) for client, each in zip(clients, sent, strict=True)]
    assert {len(fetched(answer)[0][1]) for answer in answers} == {len(fetched(answers[0])[0][1])}
    assert reads == 2
    assert is_left_alone(served)


async def test_what_is_read_while_it_is_sent_is_read_for_each(served: Serving) -> None:
    clients = [await served.connect() for _ in range(5)]
    sent = [await sent_poll(served, client) for client in clients]
    append(partition_of(served), 400_000)
    for client, each in zip(clients, sent, strict=True):
        records = fetched(await client.answer(*each))[0][1]
        assert len(records) == header_at(records).size > 400_000


async def test_more_than_a_turn_s_worth_are_all_answered(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "AT_ONCE", 3)
    clients = [await served.connect() for _ in range(10)]
    sent = [await sent_poll(served, client) for client in clients]
    append(partition_of(served), 10)
    for client, each in zip(clients, sent, strict=True):
        assert fetched(await client.answer(*each))[0][1]


async def test_a_poll_ends_empty_when_its_time_is_up(served: Serving, ways: Ways) -> None:
    client = await served.connect()
    for wait_ms in (1, 30, 30):
        assert fetched(await client.call(fetch("t", {0: 0}, wait_ms=wait_ms))) == {0: (NONE, b"")}
    assert ways.short == 3
    assert is_left_alone(served)


async def test_a_poll_whose_connection_is_lost_goes_with_it(served: Serving) -> None:
    clients = [await served.connect() for _ in range(3)]
    for client in clients:
        await sent_poll(served, client)
    clients[0].writer.transport.abort()
    await clients[1].close()
    async with asyncio.timeout(PATIENCE_S):
        while waiting(served) > 1:
            await asyncio.sleep(0)
    assert served.connections.working == 1
    clients[2].writer.transport.abort()
    append(partition_of(served), 10)  # woken and lost in one turn
    async with asyncio.timeout(PATIENCE_S):
        while not is_left_alone(served):
            await asyncio.sleep(0)
    assert served.connections.held_bytes == 0


async def test_min_bytes_are_waited_for(served: Serving, ways: Ways) -> None:
    client = await served.connect()
    request, correlation = await sent_poll(served, client, bytes_min=2_500)
    for size in (1_000, 1, 1_000, 1_000):
        append(partition_of(served), size)
        await asyncio.sleep(2 * waits.REST_SECONDS)
    async with asyncio.timeout(POLL_MS / 3000):  # long before its time is up
        assert len(fetched(await client.answer(request, correlation))[0][1]) > 3_000
    assert ways.short == 1
    assert is_left_alone(served)


async def test_what_came_is_answered_when_the_time_is_up_though_it_is_too_little(served: Serving) -> None:
    client = await served.connect()
    request, correlation = await sent_poll(served, client, bytes_min=100_000, wait_ms=40)
    append(partition_of(served), 1_000)
    assert len(fetched(await client.answer(request, correlation))[0][1]) > 1_000
    assert is_left_alone(served)


async def test_the_next_request_of_the_connection_waits_behind_a_poll(served: Serving) -> None:
    """As in Kafka: it sees what the poll waited for."""
    client = await served.connect()
    request, correlation = await sent_poll(served, client)
    second = fetch("t", {0: 0, 1: 0})
    second_correlation = client.send(second)
    other = await served.connect()
    await other.call(produce("t", {0: batch_of(b"news")}))
    assert fetched(await client.answer(request, correlation))[0][1]
    assert fetched(await client.answer(second, second_correlation))[0][1]


async def test_a_reply_that_is_known_at_once_leaves_behind_one_that_is_waited_for(served: Serving) -> None:
    await served.broker.create_topic("synced", 1, {"hotlog.durability": "fsync"})
    client = await served.connect()
    append(partition_of(served), 10)
    requests = produce("synced", {0: batch_of(b"a")}), fetch("t", {0: 0})
    for _ in range(3):
        await client.call(requests[0])
    with held_syncs(served):
        sent = b"".join(frame_of(request, number) for number, request in enumerate(requests, 1))
        client.writer.write(sent)
        await served.working()
    for number, request in enumerate(requests, 1):
        assert (await client.answer(request, number)).responses


async def deleted(served: Serving) -> None:
    await served.broker.delete_topics([partition_of(served).topic_id])


async def led_anew(served: Serving) -> None:
    partition_of(served).lead(7)


async def cut(served: Serving) -> None:
    await partition_of(served).log.truncate(0)


async def on_the_device(served: Serving) -> None:
    partition = partition_of(served)
    partition.read_now = lambda *arguments, **options: None  # type: ignore[method-assign]
    append(partition, 10)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (deleted, ErrorCode.unknown_topic_or_partition), (led_anew, ErrorCode.fenced_leader_epoch), (cut, ErrorCode.offset_out_of_range),
        (on_the_device, NONE),
    ],
)  # fmt: skip
async def test_what_is_not_for_the_short_way_is_told_by_the_general_one(
    served: Serving, ways: Ways, act: Any, code: ErrorCode
) -> None:
    append(partition_of(served), 10)
    client = await served.connect()
    request = fetch("t", {0: 1}, wait_ms=POLL_MS, leader_epoch=0)
    correlation = client.send(request)
    await until_waiting(served)
    assert ways.short == 1
    await act(served)
    found, records = fetched(await client.answer(request, correlation))[0]
    assert found is code and bool(records) is (code is NONE)
    errors = served.counted("kafka_network_request_errors_total", api="Fetch")
    assert errors == (code is not NONE)
    assert not waiting(served) and not served.connections.working


async def test_a_poll_of_a_topic_that_is_made_again_is_told(served: Serving) -> None:
    """Though it looks only when both has happened."""
    client = await served.connect()
    request, correlation = await sent_poll(served, client)
    kept, partition = served.broker.kept[waits.Waits], partition_of(served)
    kept._is_due = True  # nobody looks meanwhile
    await served.broker.delete_topics([partition.topic_id])
    await served.broker.create_topic("t", 1)
    assert partition_of(served) is not partition
    append(partition_of(served), 10)
    kept._look()
    assert fetched(await client.answer(request, correlation))[0][1]


async def test_what_the_general_way_does_for_a_poll_ends_with_its_connection(served: Serving) -> None:
    client = await served.connect()
    await sent_poll(served, client)
    partition = partition_of(served)
    reading = asyncio.Event()

    async def never(*arguments: Any, **options: Any) -> Any:
        reading.set()
        await asyncio.Event().wait()

    partition.read_now, partition.read_disk = (lambda *arguments, **options: None), never  # type: ignore[method-assign, assignment]
    append(partition, 10)
    async with asyncio.timeout(PATIENCE_S):
        await reading.wait()
        client.writer.transport.abort()
        while served.connections.working:
            await asyncio.sleep(0)
    assert served.connections.held_bytes == 0


async def test_a_look_that_fails_is_made_good_by_the_general_way(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await served.connect()
    request, correlation = await sent_poll(served, client)

    def fails(*arguments: Any) -> Any:
        raise RuntimeError("a bug (test)")

    monkeypatch.setattr(short_way.Place, "find", fails)
    append(partition_of(served), 10)
    assert fetched(await client.answer(request, correlation))[0][1]


async def test_polls_are_answered_when_the_broker_stops(served: Serving) -> None:
    client = await served.connect()
    request, correlation = await sent_poll(served, client)
    closing = asyncio.create_task(served.listeners.close())
    assert fetched(await client.answer(request, correlation)) == {0: (NONE, b"")}
    await closing


async def test_clients_choose_how_long_they_wait_but_not_how_many_timers_there_are(
    served: Serving, ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "LINES_MAX", 2)
    kept = served.broker.kept[waits.Waits]
    clients = [await served.connect() for _ in range(4)]
    sent = []
    for number, client in enumerate(clients):
        request = fetch("t", {0: 0}, wait_ms=POLL_MS - number)
        sent.append((request, client.send(request)))
        async with asyncio.timeout(PATIENCE_S):
            while served.connections.working <= number:
                await asyncio.sleep(0)
    assert (len(kept._lines), waiting(served), ways.short) == (2, 2, 2)
    append(partition_of(served), 10)
    for client, each in zip(clients, sent, strict=True):
        assert fetched(await client.answer(*each))[0][1]
    for wait_ms in range(1, 9):  # a line that is empty is given back
        assert fetched(await clients[0].call(fetch("t", {1: 0}, wait_ms=wait_ms))) == {0 + 1: (NONE, b"")}
    assert len(kept._lines) <= 2


# What is learnt


async def test_what_was_learnt_is_forgotten_with_its_partition(tmp_path: Path) -> None:
    """A topic that was deleted, and one of its name that came after it."""
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as served:
        client = await served.connect()
        for _ in range(2):
            topic = await served.broker.create_topic("t", 1)
            for version in (11, 16):
                request = fetch("t", {0: 0}, version=version, topic_id=topic.topic_id)
                assert fetched(await client.call(request))[0] == (NONE, b"")
            await served.broker.delete_topics([topic.topic_id])
            assert fetched(await client.call(fetch("t", {0: 0})))[0][0] is ErrorCode.unknown_topic_or_partition
            request = fetch("t", {0: 0}, version=16, topic_id=topic.topic_id)
            assert fetched(await client.call(request))[0][0] is ErrorCode.unknown_topic_id


async def test_what_is_learnt_is_bounded_whatever_clients_say(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_way, "PLACES_MAX", 8)
    client, kept, most = await served.connect(), served.broker.kept[Places], 0
    for number in range(60):
        request = fetch("t", {0: 0}, version=10 + number % 3, partition_bytes_max=number)
        assert fetched(await client.call(request))[0][0] is NONE
        most = max(most, len(kept))
    rack = frame_of(fetch("t", {0: 0}, version=11), 1)[:-2] + struct.pack(">h", 300) + b"r" * 300
    client.writer.write(struct.pack(">i", len(rack) - 4) + rack[4:])
    assert parsed(1, 11, await client.frame(), 1).responses
    assert all(len(each) <= short_way.NAMED_BYTES_MAX for each in kept)
    assert most == 8
