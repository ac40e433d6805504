"""A session looks at what moved, and says what one that looks at everything would say."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kio.schema.errors import ErrorCode

from hotlog.answers.api import Caller, RequestContext, Spliced
from hotlog.apis.fetch import general_way
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.broker.broker import Broker
from hotlog.kernel.errors import HotlogError
from hotlog.partitions.partition import Partition
from hotlog.wire import apis
from hotlog.wire.batch import TRANSACTIONAL_MASK, header_at, walk
from hotlog.wire.fetch_request import Key, Wanted, decode
from hotlog.wire.markers import Marker
from tests.support.topics import alter_configs
from tests.wire.serving import POLL_MS, Client, Serving, batch_of, fetch, fetched, produce, serving
from tests.wire.strategies import read, written
from tests.wire.test_fetch import without_short_ways

VERSION = 12
TOPICS, PARTITIONS = ("t", "u"), 3


@pytest_asyncio.fixture(params=["short", "general"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as each:
        if request.param == "general":
            without_short_ways(each)
        yield each


class Consumer:
    """A client with a session; with `is_thorough` its session looks at every partition each time."""

    def __init__(self, broker: Broker, isolation: int, *, is_thorough: bool) -> None:
        self.broker = broker
        self.isolation = isolation
        self.is_thorough = is_thorough
        self.number, self.epoch = 0, 0
        self.looks = 0

    def fetch(self, wanted: dict[tuple[str, int], tuple[int, int]], forgotten: list[Key], bytes_max: int) -> Any:
        """One fetch that does not wait: the answer, without the number of its session."""
        sessions = self.broker.kept[Fetches].sessions
        session = sessions._sessions.get(self.number)
        if session is not None:
            if self.is_thorough:
                session.due.update(dict.fromkeys(session.partitions.values()))
            self.looks += len(session.due)
        request = fetch("t", {}, bytes_max=bytes_max, isolation=self.isolation, session=(self.number, self.epoch), bytes_min=0)
        body = memoryview(written(request))
        decoded = decode(VERSION, body, 0)._replace(forgotten=forgotten)
        for key, (offset, leader_epoch) in wanted.items():
            decoded.partitions[key] = Wanted(offset, 1500, leader_epoch)
        context = RequestContext(1, VERSION, 1, "test", Caller(("127.0.0.1", 1), 1), 0.0)
        answer = general_way.handle(self.broker, context, decoded)
        assert isinstance(answer, Spliced)
        response = read(apis.response_type(1, VERSION), b"\0" * 4 + b"".join(bytes(each) for each in answer.buffers), 4)  # type: ignore[arg-type]
        self.number = response.session_id
        self.epoch += 1
        return response.error_code, response.responses


class Story:
    """What happens to the partitions, at random."""

    def __init__(self, broker: Broker, chance: random.Random) -> None:
        self.broker = broker
        self.chance = chance
        self.producers = 0
        self.open: list[tuple[Partition, int]] = []

    async def go_on(self) -> None:
        chance = self.chance
        partition = self.broker.partition(chance.choice(TOPICS), chance.randrange(PARTITIONS))
        acts = [
            self.append,
            self.append,
            self.append,
            self.begin,
            self.end,
            self.delete_records,
            self.expire,
            self.lead,
            self.truncate,
        ]
        if partition is None or chance.random() < 0.08:
            await self.make_again(chance.choice(TOPICS))
        elif chance.random() < 0.05:
            await alter_configs(self.broker, partition.tp.topic, {"hotlog.durability": chance.choice(["fsync", "page-cache"])})
        else:
            try:
                await chance.choice(acts)(partition)
            except HotlogError:
                return  # it is not to be had in this state

    async def append(self, partition: Partition, **producer: Any) -> None:
        data = batch_of(b"x" * self.chance.randint(1, 900), **producer)
        if producer:
            data[22] |= TRANSACTIONAL_MASK
        partition.log.append(memoryview(data), [header_at(data)], now_ms=0)

    async def begin(self, partition: Partition) -> None:
        self.producers += 1
        await self.append(partition, producer_id=self.producers, producer_epoch=0, base_sequence=0)
        self.open.append((partition, self.producers))

    async def end(self, partition: Partition) -> None:
        if self.open:
            partition, producer = self.open.pop(self.chance.randrange(len(self.open)))
            partition.append_marker(Marker(producer, 0, 0, is_commit=self.chance.random() < 0.5), now_ms=0)

    async def delete_records(self, partition: Partition) -> None:
        await partition.delete_records(self.chance.randint(partition.log_start_offset, partition.committed_end))

    async def expire(self, partition: Partition) -> None:
        partition.roll(0)
        await partition.log.flush()
        partition.log.advance_log_start(partition.committed_end)
        await partition.log.drop_local_before(partition.committed_end)

    async def lead(self, partition: Partition) -> None:
        partition.lead(partition.leader_epoch + 1)

    async def truncate(self, partition: Partition) -> None:
        await partition.log.truncate(self.chance.randint(partition.log_start_offset, partition.log_end_offset))

    async def make_again(self, topic: str) -> None:
        known = self.broker.topic(topic)
        if known is not None:
            await self.broker.delete_topics([known.topic_id])
            self.open = [(partition, producer) for partition, producer in self.open if partition.tp.topic != topic]
        if known is None or self.chance.random() < 0.7:
            await self.broker.create_topic(topic, PARTITIONS, {"hotlog.durability": "page-cache"})


@pytest.mark.parametrize("seed", range(8))
async def test_a_session_that_looks_at_what_moved_says_what_a_thorough_one_says(tmp_path: Path, seed: int) -> None:
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as served:
        await tell_both(served, seed)


async def tell_both(served: Serving, seed: int) -> None:
    chance = random.Random(seed)
    for topic in TOPICS:
        await served.broker.create_topic(topic, PARTITIONS, {"hotlog.durability": "page-cache"})
    story = Story(served.broker, chance)
    pairs = [tuple(Consumer(served.broker, isolation, is_thorough=each) for each in (False, True)) for isolation in (0, 1)]
    everything = [(topic, number) for topic in TOPICS for number in range(PARTITIONS)]
    offsets = [dict.fromkeys(everything, 0) for _ in pairs]
    changed = [dict.fromkeys(everything, (0, -1)) for _ in pairs]  # what the next request says
    for _ in range(120):
        for _ in range(chance.choice([0, 0, 1, 1, 2, 5])):
            await story.go_on()
        for at, (quick, thorough) in enumerate(pairs):
            forgotten = [key for key in everything if chance.random() < 0.02 and key not in changed[at]] if quick.number else []
            request = changed[at], forgotten, chance.choice([1, 1000, 1 << 20])
            answer = quick.fetch(*request)
            assert answer == thorough.fetch(*request)
            assert answer[0] is ErrorCode.none
            changed[at] = {}
            for topic in answer[1]:
                for part in topic.partitions:
                    key = topic.topic, part.partition_index
                    move(offsets[at], key, part)
                    epoch = served.broker.partition(*key)
                    changed[at][key] = offsets[at][key], -1 if epoch is None or chance.random() < 0.5 else epoch.leader_epoch
            changed[at] |= {key: (offsets[at][key], -1) for key in forgotten}
    for quick, thorough in pairs:
        assert quick.looks < 0.7 * thorough.looks, "it looked at everything too"


def move(offsets: dict[tuple[str, int], int], key: tuple[str, int], part: Any) -> None:
    """As a consumer goes on."""
    if part.error_code is ErrorCode.offset_out_of_range:
        offsets[key] = part.log_start_offset
    elif part.records:
        headers = [header for _, header in walk(memoryview(part.records))]
        offsets[key] = headers[-1].next_offset if headers else offsets[key]


# What wakes a fetch that waits for what is at rest


async def appended(served: Serving, partition: Partition) -> None:
    other = await served.connect()
    await other.call(produce("t", {1: batch_of(b"news")}))


async def deleted(served: Serving, partition: Partition) -> None:
    await served.broker.delete_topics([partition.topic_id])


async def led_anew(served: Serving, partition: Partition) -> None:
    partition.lead(7)


async def cut(served: Serving, partition: Partition) -> None:
    await partition.log.truncate(1)


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (appended, ErrorCode.none), (deleted, ErrorCode.unknown_topic_or_partition), (led_anew, ErrorCode.fenced_leader_epoch),
        (cut, ErrorCode.offset_out_of_range),
    ],
)  # fmt: skip
async def test_what_moves_ends_the_wait_of_its_session(served: Serving, act: Any, code: ErrorCode) -> None:
    await served.broker.create_topic("t", 3)
    client = await served.connect()
    await client.call(produce("t", {1: batch_of(b"a", b"b"), 2: batch_of(b"c")}))
    session = await at_rest(served, client, {1: 2, 2: 1})
    assert len(session.due) == 0
    poll = fetch("t", {}, session=(session.number, session.epoch), wait_ms=POLL_MS)
    correlation = client.send(poll)
    await served.working()
    partition = served.broker.partition("t", 1)
    assert partition is not None
    await act(served, partition)
    answer = fetched(await client.answer(poll, correlation))
    assert answer[1][0] is code and (act is deleted or list(answer) == [1])


async def test_what_a_session_is_rid_of_hears_nothing_more(served: Serving) -> None:
    await served.broker.create_topic("t", 3)
    client = await served.connect()
    session = await at_rest(served, client, {0: 0, 1: 0, 2: 0})
    ears = [served.broker.table()["t", number].marks._ears for number in range(3)]
    assert [len(each) for each in ears] == [1, 1, 1]
    await client.call(fetch("t", {}, session=(session.number, session.epoch), forgotten=(0,)))
    assert [len(each) for each in ears] == [0, 1, 1]
    await client.call(fetch("t", {}, session=(session.number, -1)))
    assert [len(each) for each in ears] == [0, 0, 0]


async def at_rest(served: Serving, client: Client, offsets: dict[int, int]) -> Any:
    """A session of topic `t` that has told all there is to tell."""
    response = await client.call(fetch("t", offsets, session=(0, 0), leader_epoch=0))
    for epoch in (1, 2):
        await client.call(fetch("t", {}, session=(response.session_id, epoch)))
    return served.broker.kept[Fetches].sessions._sessions[response.session_id]
