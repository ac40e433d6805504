"""Fetch: what is read from where, and fetch sessions (KIP-227)."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from tests.tools.patience import PATIENCE_S
from tests.twin.batches import batch
from tests.twin.keys import Key
from tests.twin.stories.topics import UNKNOWN_ID
from tests.twin.telling import Side, story
from tests.wire.serving import Client

BYTES = 1 << 20
SESSIONS_FROM, LEADER_EPOCH_FROM, LAST_EPOCH_FROM, IDS_FROM = 7, 9, 12, 13


class Consumer:
    """Fetch requests of one story; topics are named by name or by id, as the version wants it."""

    def __init__(self, at: Side) -> None:
        self.at = at
        self.ids: dict[str, Any] = {}

    @property
    def version(self) -> int:
        return self.at.version(Key.FETCH)

    async def topic(self, word: str, *batches: bytes, partitions: int = 1, **configs: str) -> None:
        """A topic with these batches in its partition 0."""
        self.ids[word] = await self.at.topic(word, partitions=partitions, **configs)
        await self.at.produce(word, *batches)

    def place(self, word: str, offset: int = 0, partition: int = 0, bytes_max: int = BYTES, **more: Any) -> dict[str, Any]:
        part = dict(partition=partition, fetch_offset=offset, partition_max_bytes=bytes_max, **more)
        return dict(topic=self.at.name(word), topic_id=self.ids.get(word, UNKNOWN_ID), partitions=[part])

    async def read(
        self, what: str, *places: dict[str, Any], forgotten: tuple[tuple[str, list[int]], ...] = (), **more: Any
    ) -> Any:
        gone = [
            dict(topic=self.at.name(word), topic_id=self.ids.get(word, UNKNOWN_ID), partitions=parts) for word, parts in forgotten
        ]
        given = {"max_wait": 0, "min_bytes": 0, "max_bytes": 1 << 24, "session_id": 0, "session_epoch": -1, **more}
        return await self.at.ask(Key.FETCH, what, topics=places, forgotten_topics_data=gone, **given)


async def consumer(at: Side, **batches: tuple[bytes, ...]) -> Consumer:
    made = Consumer(at)
    for word, each in batches.items():
        await made.topic(word, *each)
    return made


THREE = (batch(b"a", b"b", b"c"), batch(b"d" * 500), batch(b"e", b"f", codec="gzip"))


@story(Key.FETCH)
async def offsets_are_read(at: Side) -> None:
    of = await consumer(at, t=THREE, u=(batch(b"x"),), empty=())
    for offset in (0, 1, 3, 4, 5, 6, 7, 1_000, -1, -2, 2**62):
        await of.read(f"from {offset}", of.place("t", offset))
    await of.read("an empty one", of.place("empty"))
    await of.read("two topics", of.place("t"), of.place("u"))
    await of.read("one twice", of.place("t"), of.place("t", 4))
    await of.read("nothing")
    for level in (0, 1):
        await of.read(f"isolation {level}", of.place("t"), isolation_level=level)


@story(Key.FETCH)
async def places_to_read_that_are_not_there(at: Side) -> None:
    of = await consumer(at, t=THREE)
    await of.read("an unknown topic", of.place("unknown"))
    for index in (1, -1):
        await of.read(f"partition {index}", of.place("t", 0, index))
    await of.read("one of each", of.place("t"), of.place("unknown"), of.place("t", 0, 9))
    if of.version >= IDS_FROM:
        await of.read("no id", dict(topic_id=None, partitions=[dict(partition=0, fetch_offset=0, partition_max_bytes=BYTES)]))


@story(Key.FETCH)
async def answers_of_a_size(at: Side) -> None:
    of = await consumer(at, t=THREE, u=THREE)
    for size in (0, 1, 70, 90, 200, 700, -1):
        await of.read(f"partition of {size} bytes", of.place("t", 0, 0, size))
        await of.read(f"{size} bytes in all", of.place("t"), of.place("u"), max_bytes=size)
        await of.read(f"{size} bytes in all, in the middle", of.place("t", 3), of.place("u", 4), max_bytes=size)
    await of.read("a large batch in a small partition", of.place("t", 3, 0, 10))
    await of.read("both small", of.place("t", 3, 0, 10), of.place("u", 3, 0, 10), max_bytes=10)


@story(Key.FETCH)
async def leaders_epochs_are_fenced(at: Side) -> None:
    of = await consumer(at, t=THREE)
    found = await at.ask_quietly(Key.METADATA, topics=[dict(name=at.name("t"), topic_id=None)])
    epoch = found.topics[0].partitions[0].leader_epoch
    await of.read("without an epoch", of.place("t"))
    if of.version >= LEADER_EPOCH_FROM:
        for shift in (0, 1, 100):
            await of.read(f"epoch {shift} later", of.place("t", current_leader_epoch=epoch + shift))
        await of.read("an epoch before there was one", of.place("t", current_leader_epoch=-1))
        await of.read("a later epoch, out of range", of.place("t", 99, current_leader_epoch=epoch + 1))
        await of.read("this epoch, out of range", of.place("t", 99, current_leader_epoch=epoch))
    if of.version >= LAST_EPOCH_FROM:
        for shift in (0, 1):
            await of.read(
                f"last read {shift} later", of.place("t", 4, current_leader_epoch=epoch, last_fetched_epoch=epoch + shift)
            )


@story(Key.FETCH)
async def waiting_for_records(at: Side) -> None:
    of = await consumer(at, t=())
    long = int(PATIENCE_S * 1000)
    await of.read("a ms for nothing", of.place("t"), max_wait=1, min_bytes=1)
    waits = at.later(of.read("until something comes", of.place("t"), max_wait=long, min_bytes=1))
    await asyncio.sleep(0.1)  # it says the same whether it had to wait or not
    await at.produce("t", batch(b"a"))
    await waits
    await of.read("there is enough", of.place("t"), max_wait=long, min_bytes=1)
    await of.read("an error ends the wait", of.place("t", 77), max_wait=long, min_bytes=1)
    await of.read("not enough comes in time", of.place("t"), max_wait=1, min_bytes=1_000_000)


@story(Key.FETCH)
async def a_session_goes_on(at: Side) -> None:
    of = await consumer(at, t=THREE, u=(batch(b"x"),))
    if of.version < SESSIONS_FROM:
        await of.read("there are no sessions", of.place("t"))
        return
    wire = await at.connect()

    async def read(what: str, session: int, epoch: int, *places: Any, **more: Any) -> Any:
        return await of.read(what, *places, session_id=session, session_epoch=epoch, on=wire, **more)

    first = await read("it begins", 0, 0, of.place("t"), of.place("u"))
    mine = first.session_id
    assert mine, "a session"
    await read("nothing new, nothing read", mine, 1)
    await read("read on", mine, 2, of.place("t", 6), of.place("u", 1))
    await read("at rest", mine, 3)
    await at.produce("u", batch(b"y"))
    await read("one has more", mine, 4)
    await read("it has been read", mine, 5, of.place("u", 2))
    await read("one is forgotten", mine, 6, forgotten=(("t", [0]),))
    await at.produce("t", batch(b"z"))
    await read("so it is not told", mine, 7)
    await read("it comes back", mine, 8, of.place("t", 6))
    await read("back to the start", mine, 9, of.place("t", 0))
    await read("out of range", mine, 10, of.place("t", 500))
    await read("still out of range", mine, 11)
    await read("in range again", mine, 12, of.place("t", 7))
    await read("an unknown topic", mine, 13, of.place("unknown"))
    await read("it is still unknown", mine, 14)
    await read("unknown and forgotten", mine, 15, forgotten=(("unknown", [0]),))
    await read("what was not there is forgotten", mine, 16, forgotten=(("t", [9]),))
    await read("it ends", mine, -1, of.place("t", 7))
    await read("it has ended", mine, 17)


@story(Key.FETCH)
async def sessions_that_are_not_there(at: Side) -> None:
    of = await consumer(at, t=THREE)
    if of.version < SESSIONS_FROM:
        await of.read("there are no sessions", of.place("t"))
        return

    async def begin(what: str) -> int:
        answer = await of.read(what, of.place("t"), session_id=0, session_epoch=0)
        return int(answer.session_id)

    mine = await begin("it begins")
    await of.read("an epoch too far", of.place("t"), session_id=mine, session_epoch=2)
    await of.read("the one that is due", session_id=mine, session_epoch=1)
    await of.read("the same again", session_id=mine, session_epoch=1)
    await of.read("a negative one", session_id=mine, session_epoch=-2)
    await of.read("an unknown session", of.place("t"), session_id=mine + 77, session_epoch=1)
    await of.read("no session, later", of.place("t"), session_id=0, session_epoch=3)
    await of.read("a session begins anew", of.place("t"), session_id=mine, session_epoch=0)
    await of.read("the one before has ended", session_id=mine, session_epoch=2)
    other = await begin("another begins")
    await of.read("it ends", session_id=other, session_epoch=-1)
    await of.read("an unknown one ends", of.place("t"), session_id=other, session_epoch=-1)
    empty = await of.read("one without partitions", session_id=0, session_epoch=0)
    assert empty.error_code.name == "none"


@story(Key.FETCH)
async def a_session_sees_topics_come_and_go(at: Side) -> None:
    of = await consumer(at, t=(batch(b"a"),), u=(batch(b"b"),))
    if of.version < SESSIONS_FROM:
        await of.read("there are no sessions", of.place("t"))
        return
    wire: Client = await at.connect()
    first = await of.read("it begins", of.place("t", 1), of.place("u", 1), session_id=0, session_epoch=0, on=wire)
    await at.ask_quietly(Key.DELETE_TOPICS, version=5, topic_names=[at.name("u")], timeout=60_000)
    await at.until(
        lambda answer: answer.topics[0].error_code.name != "none",
        Key.METADATA,
        version=8,
        topics=[dict(name=at.name("u"))],
        allow_auto_topic_creation=False,
    )
    for epoch in itertools.count(1):  # Kafka's log goes some time after its metadata
        given = dict(max_wait=0, min_bytes=0, max_bytes=BYTES, topics=[], session_id=first.session_id, session_epoch=epoch)
        answer = await at.ask_quietly(Key.FETCH, on=wire, **given)
        if answer.responses:
            break
        await asyncio.sleep(0.02)
    await of.read("a topic is gone", session_id=first.session_id, session_epoch=epoch + 1, on=wire)
    await of.read("and still is", session_id=first.session_id, session_epoch=epoch + 2, on=wire)
