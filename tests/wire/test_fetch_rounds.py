"""The short way of fetches with a session or several partitions against the general one: what is answered, and what becomes of one that waits."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from hotlog.apis.fetch import round_way, waits
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.wire.batch import walk
from hotlog.wire.fetch_request import FLEXIBLE_FROM, FetchRequest
from tests.tools.patience import PATIENCE_S
from tests.wire.polling import Ways, append, is_left_alone, partition_of, until_waiting
from tests.wire.serving import POLL_MS, Client, Serving, fetch, fetched, parsed, serving
from tests.wire.test_fetch import without_short_ways
from tests.wire.test_fetch_short import MIB, served, ways

__all__ = ["served", "ways"]  # fixtures
PARTITIONS = 4


class Both:
    """One consumer of two brokers, of which one has no short way; what it is told by both is the same."""

    def __init__(
        self, brokers: tuple[Serving, Serving], clients: list[Client], ids: list[UUID], version: int, *, has_session: bool = True
    ) -> None:
        self.brokers = brokers
        self.version = version
        self.epoch = 0 if has_session else -1
        self._clients = clients
        self._ids = ids
        self._sessions = [0, 0]
        self._correlation = 0

    def each(self, act: Callable[[Serving], None]) -> None:
        for broker in self.brokers:
            act(broker)

    async def ask(self, offsets: dict[int, int], *, moved: Any = None, **options: Any) -> Any:
        """One request; `moved` is done to both brokers once both wait."""
        frames = []
        for client, topic_id, session in zip(self._clients, self._ids, self._sessions, strict=True):
            request = fetch("t", offsets, version=self.version, topic_id=topic_id, session=(session, self.epoch), **options)
            self._correlation = client.send(request)
        if moved is not None:
            async with asyncio.timeout(PATIENCE_S):
                while not all(broker.connections.working for broker in self.brokers):
                    await asyncio.sleep(0)
            self.each(moved)
        at = 11 if self.version >= FLEXIBLE_FROM else 10  # of the session's number
        for number, (client, topic_id) in enumerate(zip(self._clients, self._ids, strict=True)):
            frame = await client.frame()
            session = struct.unpack_from(">i", frame, at)[0]
            if struct.unpack_from(">h", frame, at - 2)[0] == 0:
                self._sessions[number] = session
            frames.append(
                (frame[:at] + (b"\0\0\0\1" if session else bytes(4)) + frame[at + 4 :]).replace(topic_id.bytes, b"i" * 16)
            )
        assert frames[0] == frames[1]
        response = parsed(1, self.version, frames[0], self._correlation)
        if response.error_code is ErrorCode.none and self.epoch >= 0:
            self.epoch += 1
        return response


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("version", [7, 11, 12, 18])
async def test_a_client_with_a_session_sees_no_difference(tmp_path: Path, ways: Ways, version: int, seed: int) -> None:
    chance, choices = random.Random(100 * version + seed), {"hotlog.durability": "page-cache"}
    async with serving(tmp_path / "a", choices) as quick, serving(tmp_path / "b", choices) as slow:
        without_short_ways(slow)
        brokers = quick, slow
        ids = [(await each.broker.create_topic("t", PARTITIONS)).topic_id for each in brokers]
        both = Both(brokers, [await each.connect() for each in brokers], ids, version)
        offsets, changed = dict.fromkeys(range(PARTITIONS), 0), dict.fromkeys(range(PARTITIONS), 0)
        producers, isolation = 0, seed % 2
        for step in range(80):
            index, size = chance.randrange(PARTITIONS), chance.choice([1, 900, 150_000])
            kind = chance.random()
            if kind < 0.4:
                producers += chance.random() < 0.1
                producer = producers if chance.random() < 0.1 else -1
                both.each(moving(index, size, producer))
            elif kind < 0.45:
                for broker in brokers:
                    await partition_of(broker, index).delete_records(-1)
            elif kind < 0.5:
                both.epoch += chance.choice([0, 1])  # a wrong one, perhaps
            options = {
                "isolation": isolation,
                "bytes_min": chance.choice([0, 1, 1, 300]),
                "bytes_max": chance.choice([100, 20_000, MIB]),
            }
            wait_ms, moved = chance.choice([0, 0, 1]), None
            if step % 7 == 6:
                wait_ms, options["bytes_min"] = POLL_MS, 1
                response = await both.ask(changed, wait_ms=0, **options)
                changed = went_on(offsets, response)
                moved = moving(index, chance.choice([10, 200_000])) if quiet(both, offsets) and not response.responses else None
                if response.error_code is not ErrorCode.none or (isolation and producers):
                    moved = None  # it would not be seen
                wait_ms = POLL_MS if moved is not None else 0
            forgotten = (index,) if chance.random() < 0.05 and index not in changed and both.epoch > 0 and not moved else ()
            response = await both.ask(changed, wait_ms=wait_ms, moved=moved, forgotten=forgotten, **options)
            if response.error_code is not ErrorCode.none:
                both.epoch, changed = 0, dict(offsets)
                continue
            changed = went_on(offsets, response) | {each: offsets[each] for each in forgotten}
        for name in ("kafka_network_requests_total", "kafka_network_request_errors_total"):
            assert quick.counted(name, api="Fetch") == slow.counted(name, api="Fetch")
    assert ways.short > 80


@pytest.mark.parametrize("version", [7, 10, 11, 12, 13, 18])
async def test_a_client_of_several_partitions_sees_no_difference(tmp_path: Path, ways: Ways, version: int) -> None:
    """Those that lie still, those that have something, and those that are nowhere."""
    chance, choices = random.Random(version), {"hotlog.durability": "page-cache"}
    async with serving(tmp_path / "a", choices) as quick, serving(tmp_path / "b", choices) as slow:
        without_short_ways(slow)
        brokers = quick, slow
        ids = [(await each.broker.create_topic("t", PARTITIONS)).topic_id for each in brokers]
        both = Both(brokers, [await each.connect() for each in brokers], ids, version, has_session=False)
        for _ in range(60):
            for _ in range(chance.choice([0, 1, 3])):
                both.each(moving(chance.randrange(PARTITIONS), chance.choice([1, 900, 150_000])))
            ends = {index: partition_of(quick, index).committed_end for index in range(PARTITIONS)}
            wanted = chance.sample(range(PARTITIONS), chance.choice([0, 2, 3, 4]))
            offsets = {index: chance.choice([ends[index], ends[index], ends[index], max(0, ends[index] - 2)]) for index in wanted}
            if chance.random() < 0.1:
                offsets[chance.choice([0, 17])] = chance.choice([-1, 10_000])
            await both.ask(
                offsets, wait_ms=chance.choice([0, 0, 1]), bytes_min=chance.choice([0, 1, 2_000]), isolation=chance.choice([0, 1]),
                bytes_max=chance.choice([100, 2_000, MIB]), partition_bytes_max=chance.choice([0, 1_000, MIB]),
                leader_epoch=chance.choice([-1, -1, 0, 4]) if chance.random() < 0.3 else 0,
            )  # fmt: skip
        metric = "kafka_server_brokertopicmetrics_bytesout_total"
        assert quick.counted(metric, topic="t") == slow.counted(metric, topic="t") > 0
    assert ways.short >= 50


def moving(index: int, size: int, producer: int = -1) -> Callable[[Serving], None]:
    return lambda broker: append(partition_of(broker, index), size, producer=producer)


def quiet(both: Both, offsets: dict[int, int]) -> bool:
    """Whether a consumer at these offsets has nothing to read."""
    return all(partition_of(broker, index).committed_end <= at for broker in both.brokers for index, at in offsets.items())


def went_on(offsets: dict[int, int], response: Any) -> dict[int, int]:
    """As a consumer goes on; what its next request says."""
    changed = {}
    for topic in response.responses:
        for part in topic.partitions:
            index = part.partition_index
            if part.error_code is ErrorCode.offset_out_of_range:
                offsets[index] = part.log_start_offset
            elif part.records:
                headers = [header for _, header in walk(memoryview(part.records))]
                offsets[index] = headers[-1].next_offset if headers else offsets[index]
            changed[index] = offsets[index]
    return changed


async def test_sessions_that_wait_for_the_same_are_answered_by_one_read(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [await served.connect() for _ in range(10)]
    sent = []
    for client in clients:
        first = await client.call(fetch("t", {0: 0, 1: 0}, session=(0, 0)))
        request = fetch("t", {}, session=(first.session_id, 1), wait_ms=POLL_MS)
        sent.append((request, client.send(request)))
    await until_waiting(served, len(clients))
    partition, reads = partition_of(served), 0
    read_now = partition.read_now

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return read_now(*arguments, **options)

    monkeypatch.setattr(partition, "read_now", counted)
    append(partition, 1_000)
    for client, each in zip(clients, sent, strict=True):
        assert [len(records) > 1_000 for _, records in fetched(await client.answer(*each)).values()] == [True]
    assert reads == 1
    sessions = served.broker.kept[Fetches].sessions
    assert not any(session.waiting for session in sessions._sessions.values())


async def test_a_session_that_waits_goes_with_its_connection_and_its_session_stays(served: Serving) -> None:
    client = await served.connect()
    first = await client.call(fetch("t", {0: 0, 1: 0}, session=(0, 0)))
    client.send(fetch("t", {}, session=(first.session_id, 1), wait_ms=POLL_MS))
    await until_waiting(served)
    client.writer.transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        while served.connections.working:
            await asyncio.sleep(0)
    assert served.connections.held_bytes == 0
    session = served.broker.kept[Fetches].sessions._sessions[first.session_id]
    assert not session.waiting
    append(partition_of(served), 10)
    other = await served.connect()
    assert list(fetched(await other.call(fetch("t", {}, session=(first.session_id, 2))))) == [0]


async def test_what_a_session_forgot_meanwhile_is_no_error_of_its_fetch_that_waits(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session has no more than one client, but nothing makes that so."""
    client = await served.connect()
    first = await client.call(fetch("t", {0: 0, 1: 0}, session=(0, 0)))
    request = fetch("t", {}, session=(first.session_id, 1), wait_ms=30, bytes_min=100_000)
    correlation = client.send(request)
    await until_waiting(served)
    session = served.broker.kept[Fetches].sessions._sessions[first.session_id]
    hand_over = waits.Waits.hand_over

    def forgotten_next(*arguments: Any) -> None:
        hand_over(*arguments)
        forget = FetchRequest(0, 0, 0, 0, first.session_id, 2, {}, [("t", 0)], "")
        session.update(forget)  # before the task begins

    monkeypatch.setattr(waits.Waits, "hand_over", forgotten_next)
    append(partition_of(served), 10)
    assert (await client.answer(request, correlation)).error_code is ErrorCode.none


async def test_several_partitions_wait_together(served: Serving, ways: Ways) -> None:
    client = await served.connect()
    for bytes_min in (1, 1_500):
        request = fetch("t", {0: 0, 1: 0}, wait_ms=POLL_MS, bytes_min=bytes_min)
        correlation = client.send(request)
        await until_waiting(served)
        for index in (1, 0) if bytes_min > 1 else (1,):
            append(partition_of(served, index), 1_000)
        answer = fetched(await client.answer(request, correlation))
        assert [len(records) > 1_000 for _, records in answer.values()] == [bytes_min > 1, True]
        await partition_of(served, 1).log.truncate(0)
    assert ways.short == 2
    assert is_left_alone(served)


async def test_a_session_that_has_much_to_look_at_goes_the_general_way(
    served: Serving, ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_way, "SLICE", 1)
    client = await served.connect()
    first = await client.call(fetch("t", {0: 0, 1: 0}, session=(0, 0)))
    for index in (0, 1):
        append(partition_of(served, index), 10)
    assert len(fetched(await client.call(fetch("t", {}, session=(first.session_id, 1))))) == 2
    assert ways.short == 0
