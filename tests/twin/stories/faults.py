"""Faults of produced records told one by one (KIP-467): times out of bounds, keys that are missing, sizes; and whose clock stamps a batch."""

from __future__ import annotations

from controller.config_rules import SET
from tests.fixtures.raw_batch import RawRecord
from tests.twin.batches import THEN, batch, of_records, patched
from tests.twin.keys import Key
from tests.twin.stories.produce import producer
from tests.twin.telling import Side, story

SOON, LATE = 2_000_000_000_000, 4_000_000_000_000  # ms: long after this run, and longer
NEVER = "9223372036854775807"
GOOD, OLD, KEYLESS = RawRecord(SOON), RawRecord(THEN), RawRecord(SOON, None)


@story(Key.PRODUCE)
async def every_record_that_is_wrong_is_named(at: Side) -> None:
    both = dict(cleanup_policy="compact", message_timestamp_before_max_ms="1000", message_timestamp_after_max_ms=NEVER)
    to = await producer(at, past=dict(both, cleanup_policy="delete"), both=both)
    for codec in ("none", "gzip", "zstd"):
        await to.send(f"two of five, {codec}", of_records([GOOD, OLD, GOOD, OLD, GOOD], codec), "past")
        await to.send(f"twelve of twelve, {codec}", of_records([OLD] * 12, codec), "past")
        await to.send(f"the last one only, {codec}", of_records([GOOD, GOOD, OLD], codec), "past")
        await to.send(f"a key and a time, {codec}", of_records([KEYLESS, GOOD, OLD], codec), "both")
        await to.send(f"a time and a key, {codec}", of_records([OLD, GOOD, KEYLESS], codec), "both")
        await to.send(f"both in one record, {codec}", of_records([RawRecord(THEN, None), GOOD], codec), "both")
    await to.send("none is wrong", of_records([GOOD, GOOD]), "both")
    for word in to.ids:
        await to.stored(word)


@story(Key.PRODUCE)
async def both_bounds_of_time_hold_at_once(at: Side) -> None:
    day = "86400000"
    to = await producer(
        at,
        narrow=dict(message_timestamp_before_max_ms=day, message_timestamp_after_max_ms=day),
        none=dict(message_timestamp_before_max_ms="0", message_timestamp_after_max_ms="0"),
    )
    for word in to.ids:
        await to.send(f"long ago, {word}", batch(b"a"), word)
        await to.send(f"far ahead, {word}", batch(b"a", at_ms=LATE), word)
        await to.send(f"one of each, {word}", of_records([RawRecord(LATE), RawRecord(THEN)]), word)
        await to.send(f"no time, {word}", batch(b"a", b"b", at_ms=-1), word)
        await to.send(f"a largest time that lies, {word}", patched(batch(b"a"), 35, ">q", LATE), word)
    for word in to.ids:
        await to.stored(word)


@story(Key.PRODUCE)
async def a_batch_that_is_refused_takes_no_sequence(at: Side) -> None:
    to = await producer(at, past=dict(message_timestamp_before_max_ms="1000", message_timestamp_after_max_ms=NEVER))
    got = await at.ask_quietly(Key.INIT_PRODUCER_ID, transactional_id=None, transaction_timeout=60_000)

    async def count(what: str, sequence: int, *records: RawRecord) -> None:
        await to.send(what, of_records(records, producer=(got.producer_id, 0, sequence)), "past")

    await count("too old", 0, OLD, OLD)
    await count("the same sequence, in time", 0, GOOD, GOOD)
    await count("too old again", 2, GOOD, OLD)
    await count("the next, in time", 2, GOOD)
    await count("a gap and too old", 9, OLD)
    await count("one that is there already, but too old", 0, OLD, OLD)
    await to.stored("past")


@story(Key.PRODUCE)
async def the_broker_stamps_what_comes_where_its_clock_counts(at: Side) -> None:
    to = await producer(at, append=dict(message_timestamp_type="LogAppendTime"), turned={})
    got = await at.ask_quietly(Key.INIT_PRODUCER_ID, transactional_id=None, transaction_timeout=60_000)
    for codec in ("none", "gzip", "lz4"):
        await to.send(f"long ago, {codec}", batch(b"a", b"b", codec=codec), "append")
    await to.send("far ahead", batch(b"a", at_ms=LATE), "append")
    await to.send("no time", batch(b"a", at_ms=-1), "append")
    await to.send("a largest time that lies", patched(batch(b"a"), 35, ">q", LATE), "append")
    await to.send("it says that a broker has stamped it", patched(batch(b"a"), 21, ">h", 8), "append")
    for what in ("counted", "counted, again"):
        await to.send(what, batch(b"a", producer=(got.producer_id, 0, 0)), "append")
    await to.stored("append")
    await to.send("while the client's clock counts", batch(b"a"), "turned")
    change = dict(name="message.timestamp.type", config_operation=SET, value="LogAppendTime")
    turned = dict(resource_type=2, resource_name=at.name("turned"))
    await at.ask_quietly(Key.INCREMENTAL_ALTER_CONFIGS, validate_only=False, resources=[turned | dict(configs=[change])])
    await at.until(
        lambda answer: answer.results[0].configs[0].value == "LogAppendTime",
        Key.DESCRIBE_CONFIGS, resources=[turned | dict(configuration_keys=["message.timestamp.type"])],
    )  # fmt: skip
    await to.send("while the broker's counts", batch(b"a"), "turned")
    await to.stored("turned")


@story(Key.PRODUCE)
async def sizes_are_those_of_what_is_sent(at: Side) -> None:
    """max.message.bytes is held against a batch as it comes, compressed or not."""
    to = await producer(at, small=dict(max_message_bytes="300"), none=dict(max_message_bytes="0"))
    room = 300 - len(batch(b""))
    for number in range(-2, 2):
        await to.send(f"{number} bytes beside the limit", batch(b"a" * (room + number)), "small")
    await to.send("far above it", batch(b"a" * 20_000), "small")
    await to.send("many records, compressed", batch(*[b"a" * 100] * 50, codec="gzip"), "small")
    await to.send("too large, and its CRC is wrong", patched(batch(b"a" * 400), 17, ">I", 7, is_sound=False), "small")
    await to.send("nothing is small enough", batch(b"a"), "none")
    await to.send_all("one of two", to.data("small", {0: batch(b"a")}), to.data("none", {0: batch(b"a")}))
    await to.stored("small")
