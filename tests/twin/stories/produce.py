"""Produce: what is taken, what is refused and in which words (KIP-467), what stands in the log afterwards."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from tests.fixtures.raw_batch import RawRecord
from tests.twin.batches import THEN, batch, of_records, patched
from tests.twin.keys import Key
from tests.twin.stories.topics import UNKNOWN_ID
from tests.twin.telling import Side, story


class Producer:
    """Produce requests of one story; topics are named by name or by id, as the version wants it."""

    def __init__(self, at: Side) -> None:
        self.at = at
        self.ids: dict[str, Any] = {}

    async def topic(self, word: str = "t", **options: Any) -> None:
        self.ids[word] = await self.at.topic(word, **options)

    def data(self, word: str, parts: Mapping[int, Any]) -> dict[str, Any]:
        partitions = [dict(index=index, records=data) for index, data in parts.items()]
        return dict(name=self.at.name(word), topic_id=self.ids.get(word, UNKNOWN_ID), partition_data=partitions)

    async def send(self, what: str, records: Any, word: str = "t", partition: int = 0, acks: int = -1, **more: Any) -> Any:
        return await self.send_all(what, self.data(word, {partition: records}), acks=acks, **more)

    async def send_all(self, what: str, *topics: dict[str, Any], acks: int = -1, **more: Any) -> Any:
        return await self.at.ask(Key.PRODUCE, what, acks=acks, timeout=60_000, topic_data=topics, **more)

    async def stored(self, word: str = "t", partition: int = 0, what: str = "") -> None:
        """What stands in the partition now."""
        parts = [dict(partition=partition, fetch_offset=0, partition_max_bytes=1 << 20)]
        topics = [dict(topic=self.at.name(word), topic_id=self.ids[word], partitions=parts)]
        await self.at.ask(Key.FETCH, what or f"what stands in {word}", max_wait=0, min_bytes=0, topics=topics)


async def producer(at: Side, **topics: dict[str, Any]) -> Producer:
    """With the topic `t`, or with these."""
    made = Producer(at)
    for word, options in (topics or {"t": {}}).items():
        await made.topic(word, **options)
    return made


@story(Key.PRODUCE)
async def batches_are_taken(at: Side) -> None:
    to = await producer(
        at, t=dict(partitions=3), append=dict(message_timestamp_type="LogAppendTime"), gzip=dict(compression_type="gzip")
    )
    await to.send("one record", batch(b"a"))
    await to.send("several", batch(b"a", b"b", b"c"))
    await to.send("with acks=1", batch(b"a"), acks=1)
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        await to.send(f"by {codec}", batch(b"a" * 100, b"b", codec=codec))
    await to.send("nulls", batch(None, b"", key=None))
    headers = RawRecord(THEN, b"k", b"v", headers=((b"h", b"1"), (b"h", None), (b"", b"")))
    await to.send("headers", of_records([headers]))
    await to.send_all("two partitions", to.data("t", {1: batch(b"a"), 2: batch(b"b", b"c")}))
    await to.send_all("two topics", to.data("append", {0: batch(b"a", b"b")}), to.data("gzip", {0: batch(b"a" * 200)}))
    await to.send_all("nothing")
    await to.send_all("a topic without partitions", to.data("t", {}))
    await to.send("times that go back", of_records([RawRecord(THEN + 5), RawRecord(THEN), RawRecord(THEN + 1)]))
    await to.send("no time", batch(b"a", at_ms=-1))
    for index in range(3):
        await to.stored("t", index)
    await to.stored("append")


@story(Key.PRODUCE)
async def acks_that_nobody_waits_for(at: Side) -> None:
    to = await producer(at)
    wire = await at.connect()
    await at.tell(Key.PRODUCE, on=wire, acks=0, timeout=60_000, topic_data=[to.data("t", {0: batch(b"a")})])
    await at.ask(Key.METADATA, "the next answer on the connection", on=wire, topics=[])
    await at.until(
        lambda answer: answer.topics[0].partitions[0].offset == 1, Key.LIST_OFFSETS, version=6, replica_id=-1,
        topics=[dict(name=at.name("t"), partitions=[dict(partition_index=0, timestamp=-1)])],
    )  # fmt: skip
    await to.stored()
    for acks in (2, -2, 100):
        await to.send(f"acks={acks}", batch(b"a"), acks=acks)


@story(Key.PRODUCE)
async def places_that_are_not_there(at: Side) -> None:
    to = await producer(at)
    await to.send("an unknown topic", batch(b"a"), word="unknown")
    for index in (1, -1, 2**31 - 1):
        await to.send(f"partition {index}", batch(b"a"), partition=index)
    await to.send_all(
        "one that is there beside it", to.data("t", {0: batch(b"a"), 5: batch(b"b")}), to.data("unknown", {0: batch(b"a")})
    )
    await to.send("nonsense for an unknown topic", b"nonsense", word="unknown")
    await to.stored()


@story(Key.PRODUCE)
async def batches_that_lie(at: Side) -> None:
    """Each to a partition of its own; then what stands in all of them."""
    to = Producer(at)
    good = batch(b"aaaa", b"bbbb")
    lies = {  # null is not among them: Kafka never answers it
        "empty": b"", "seven bytes": good[:7], "sixteen bytes": good[:16], "a header and no records": good[:61], "cut off": good[:-3],
        "more behind it": good + b"\0\0\0", "two batches": good + good, "a wrong CRC": patched(good, 17, ">I", 7, is_sound=False),
        "no records": patched(good, 57, ">i", 0), "fewer records than there are": patched(patched(good, 57, ">i", 1), 23, ">i", 0),
        "more records than there are": patched(patched(good, 57, ">i", 3), 23, ">i", 2), "minus one record": patched(good, 57, ">i", -1),
        "a last offset that does not fit": patched(good, 23, ">i", 5), "a negative last offset": patched(good, 23, ">i", -1),
        "base offset 7": patched(good, 0, ">q", 7), "base offset -1": patched(good, 0, ">q", -1), "leader epoch 3": patched(good, 12, ">i", 3),
        "a length that is too long": patched(good, 8, ">i", len(good)), "a length that is too short": patched(good, 8, ">i", 20),
        "a negative length": patched(good, 8, ">i", -1), "a control batch": patched(good, 21, ">h", 0x20),
        "a delete horizon": patched(good, 21, ">h", 0x40), "an attribute that nobody knows": patched(good, 21, ">h", 0x80),
        "codec 5": patched(good, 21, ">h", 5), "codec 7": patched(good, 21, ">h", 7), "gzip that is none": patched(good, 21, ">h", 1),
        "log append time": patched(good, 21, ">h", 8), "a transaction without its id": batch(b"a", attributes=0x10, producer=(1, 0, 0)),
        "a wrong largest time": patched(good, 35, ">q", THEN + 99_999), "a largest time of -1": patched(good, 35, ">q", -1),
        "offset deltas that do not rise": of_records([RawRecord(THEN, delta=0), RawRecord(THEN, delta=0)]),
        "offset deltas that do not begin at 0": of_records([RawRecord(THEN, delta=1), RawRecord(THEN, delta=2)]),
        "attributes of a record": of_records([RawRecord(THEN, attributes=1)]),
        "a producer id without its epoch": batch(b"a", producer=(5, -1, 0)), "without its sequence": batch(b"a", producer=(5, 0, -1)),
    }  # fmt: skip
    for magic in (0, 1, 3, 127):
        lies[f"magic {magic}"] = patched(good, 16, ">b", magic)
    await to.topic("t", partitions=len(lies))
    for number, (what, data) in enumerate(lies.items()):
        await to.send(what, data, partition=number)
        await to.stored("t", number, what=f"after {what}")


@story(Key.PRODUCE)
async def records_that_break_a_rule_of_their_topic(at: Side) -> None:
    to = await producer(
        at, compact=dict(cleanup_policy="compact"), small=dict(max_message_bytes="200"),
        past=dict(message_timestamp_before_max_ms="1000", message_timestamp_after_max_ms="9223372036854775807"), future=dict(message_timestamp_after_max_ms="1000"),
        append=dict(message_timestamp_type="LogAppendTime", message_timestamp_before_max_ms="1000"),
    )  # fmt: skip
    keyless = [RawRecord(THEN, b"k"), RawRecord(THEN, None), RawRecord(THEN, b"k"), RawRecord(THEN, None)]
    await to.send("no keys where it is compacted", of_records(keyless), "compact")
    await to.send("no keys and compressed", of_records(keyless, "gzip"), "compact")
    await to.send("keys that are empty", batch(b"a", key=b""), "compact")
    await to.send("too large", batch(b"a" * 200), "small")
    await to.send("as large as it may be", batch(b"a" * (200 - len(batch(b"")) - 1)), "small")
    await to.send("large before it was compressed", batch(b"a" * 1_000, codec="gzip"), "small")
    await to.send("too old", batch(b"a", b"b"), "past")
    mixed = [RawRecord(2_000_000_000_000), RawRecord(THEN), RawRecord(2_000_000_000_000)]
    await to.send("some too old", of_records(mixed), "past")
    await to.send("some too old and compressed", of_records(mixed, "lz4"), "past")
    await to.send("no time is no age", batch(b"a", at_ms=-1), "past")
    await to.send("too new", batch(b"a", at_ms=4_000_000_000_000), "future")
    await to.send("some too new", of_records([RawRecord(THEN), RawRecord(4_000_000_000_000)]), "future")
    await to.send("too old where the broker's time counts", batch(b"a"), "append")
    await to.send_all("one right, one wrong", to.data("compact", {0: batch(b"a")}), to.data("small", {0: batch(b"b" * 200)}))
    for word in to.ids:
        await to.stored(word)


@story(Key.PRODUCE)
async def producers_that_count(at: Side) -> None:
    to = await producer(at)
    got = await at.ask_quietly(Key.INIT_PRODUCER_ID, transactional_id=None, transaction_timeout=60_000)
    mine = got.producer_id

    async def count(what: str, sequence: int, *values: bytes, epoch: int = 0, producer_id: int = mine) -> None:
        await to.send(what, batch(*(values or (b"a",)), producer=(producer_id, epoch, sequence)))

    await count("not from 0", 5)
    await count("the first", 0, b"a", b"b")
    await count("the first again", 0, b"a", b"b")
    await count("the next", 2)
    await count("a gap", 4)
    await count("the first once more", 0, b"a", b"b")
    await count("half of the first", 0)
    await count("an overlap", 1, b"b", b"c")
    for sequence in range(3, 9):
        await count(f"number {sequence}", sequence)
    await count("one that was long ago", 0, b"a", b"b")
    await count("the last again", 8)
    await count("a new epoch, not from 0", 9, epoch=1)
    await count("a new epoch", 0, epoch=1)
    await count("the old epoch", 9)
    await count("an epoch that leaves one out", 0, epoch=3)
    await count("an unknown producer, not from 0", 9, producer_id=mine + 1_000_000)
    await count("an unknown producer", 0, producer_id=mine + 1_000_001)
    await to.send("no producer in between", batch(b"a"))
    await to.stored()


@story(Key.PRODUCE)
async def sequences_wrap(at: Side) -> None:
    to = await producer(at)
    got = await at.ask_quietly(Key.INIT_PRODUCER_ID, transactional_id=None, transaction_timeout=60_000)
    last = 2**31 - 1
    for what, sequence, number in (
        ("near the end", last - 2, 2), ("over the end", last, 3), ("behind it", 2, 1), ("over the end again", last, 3), ("a gap", 9, 1),
    ):  # fmt: skip
        await to.send(what, batch(*[b"a"] * number, producer=(got.producer_id, 0, sequence)))
    await to.stored()


def old_message(magic: int, value: bytes) -> bytes:
    """A message of Kafka before 0.11."""
    time = struct.pack(">q", THEN) if magic else b""
    body = struct.pack(">bb", magic, 0) + time + struct.pack(">i", -1) + struct.pack(">i", len(value)) + value
    return struct.pack(">qiI", 0, len(body) + 4, 0) + body


@story(Key.PRODUCE)
async def formats_of_long_ago(at: Side) -> None:
    to = await producer(at)
    for magic in (0, 1):
        await to.send(f"magic {magic}", old_message(magic, b"a" * 80))
        await to.send(f"magic {magic}, short", old_message(magic, b""))
    await to.stored()
