"""Offsets: by time, by leader epoch, and what is deleted before one."""

from __future__ import annotations

from typing import Any

from tests.twin.batches import THEN, batch
from tests.twin.keys import Key
from tests.twin.telling import Side, story


@story(Key.LIST_OFFSETS)
async def offsets_by_time(at: Side) -> None:
    version = at.version(Key.LIST_OFFSETS)

    async def look(what: str, *parts: tuple[int, int], word: str = "t", epoch: int = -1, **more: Any) -> None:
        asked = [dict(partition_index=index, timestamp=time, current_leader_epoch=epoch) for index, time in parts]
        topics = [dict(name=at.name(word), partitions=asked)]
        await at.ask(Key.LIST_OFFSETS, what, topics=topics, **{"replica_id": -1, "isolation_level": 0, "timeout": 60_000, **more})

    await at.topic("t", partitions=2)
    await at.produce("t", batch(b"a", b"b"), batch(b"c", at_ms=THEN + 1_000), batch(b"d", b"e", at_ms=THEN + 500, codec="gzip"))
    await at.topic("compact", cleanup_policy="compact")
    await at.produce("compact", batch(b"a"))
    specials = {-1: 1, -2: 1, -3: 7, -4: 8, -5: 9, -6: 11}
    for special, since in specials.items():
        if version >= since:
            await look(f"special {special}", (0, special))
            await look(f"special {special}, empty", (1, special))
            await look(f"special {special}, compacted", (0, special), word="compact")
    await look("a special one that nobody knows", (0, -7))
    for special, since in specials.items():
        if version < since:
            await look(f"special {special}, before its time", (0, special))
    for time in (0, THEN - 1, THEN, THEN + 1, THEN + 2, THEN + 500, THEN + 501, THEN + 502, THEN + 1_000, THEN + 1_001, 2**62):
        await look(f"time {time}", (0, time))
    await look("a time, empty", (1, THEN))
    await look("both partitions", (0, -1), (1, -1))
    await look("an unknown partition", (0, -1), (7, -1))
    await look("a partition twice", (0, -1), (0, -2))
    await look("an unknown topic", (0, -1), word="unknown")
    await look("no partitions")
    await at.ask(Key.LIST_OFFSETS, "no topics", replica_id=-1, topics=[], timeout=60_000)
    if version >= 2:
        for level in (0, 1):
            await look(f"isolation {level}", (0, -1), isolation_level=level)
            await look(f"a time at isolation {level}", (0, THEN + 1), isolation_level=level)
    for replica in (-2, -3):
        await look(f"replica {replica}", (0, -1), replica_id=replica)
    if version >= 4:
        found = await at.ask_quietly(Key.METADATA, topics=[dict(name=at.name("t"), topic_id=None)])
        epoch = found.topics[0].partitions[0].leader_epoch
        for shift in (0, 1, 50):
            await look(f"epoch {shift} later", (0, -1), epoch=epoch + shift)


@story(Key.OFFSET_FOR_LEADER_EPOCH)
async def ends_of_epochs(at: Side) -> None:
    async def look(what: str, *parts: tuple[int, int, int], word: str = "t", replica: int = -1) -> None:
        asked = [dict(partition=index, current_leader_epoch=now, leader_epoch=epoch) for index, now, epoch in parts]
        await at.ask(Key.OFFSET_FOR_LEADER_EPOCH, what, replica_id=replica, topics=[dict(topic=at.name(word), partitions=asked)])

    await at.topic("t", partitions=2)
    await at.produce("t", batch(b"a", b"b"), batch(b"c"))
    found = await at.ask_quietly(Key.METADATA, topics=[dict(name=at.name("t"), topic_id=None)])
    now = found.topics[0].partitions[0].leader_epoch
    for shift in (0, 1, 7):
        await look(f"epoch {shift} later", (0, -1, now + shift))
        await look(f"epoch {shift} later, empty", (1, -1, now + shift))
        await look(f"the current one is {shift} later", (0, now + shift, now))
    await look("none", (0, -1, -1))
    await look("an older one", (0, -1, now - 1))
    await look("negative", (0, -1, -5))
    await look("an unknown partition", (0, -1, now), (9, -1, now))
    await look("an unknown topic", (0, -1, now), word="unknown")
    await look("no partitions")
    await look("as a debugger", (0, -1, now), replica=-2)


@story(Key.DELETE_RECORDS)
async def records_before_an_offset_go(at: Side) -> None:
    async def delete(what: str, *parts: tuple[int, int], word: str = "t") -> None:
        asked = [dict(partition_index=index, offset=offset) for index, offset in parts]
        await at.ask(Key.DELETE_RECORDS, what, topics=[dict(name=at.name(word), partitions=asked)], timeout=60_000)

    async def stored(what: str) -> None:
        parts = [dict(partition_index=index, timestamp=-2) for index in (0, 1)]
        await at.ask(Key.LIST_OFFSETS, what, replica_id=-1, topics=[dict(name=at.name("t"), partitions=parts)], timeout=60_000)

    await at.topic("t", partitions=2)
    await at.produce("t", batch(b"a", b"b", b"c"), batch(b"d"), batch(b"e"))
    await delete("nothing", (0, 0))
    await delete("in the middle of a batch", (0, 2))
    await stored("so it begins there")
    await delete("what is gone already", (0, 1))
    await delete("past the end", (0, 6))
    await delete("negative", (0, -2))
    await delete("two partitions", (0, 3), (1, 0))
    await delete("an unknown partition", (0, 3), (7, 0))
    await delete("a partition twice", (0, 3), (0, 4))
    await delete("an unknown topic", (0, 0), word="unknown")
    await delete("all", (0, -1), (1, -1))
    await stored("nothing is left")
    await at.topic("compact", cleanup_policy="compact")
    await delete("where it is compacted", (0, 0), word="compact")
    await at.topic("both", cleanup_policy="compact,delete")
    await delete("where it is compacted and deleted", (0, 0), word="both")
    await delete("no partitions")
    await at.ask(Key.DELETE_RECORDS, "no topics", topics=[], timeout=60_000)
