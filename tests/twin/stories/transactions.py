"""Transactions, in both protocols: a client of EndTxn 5 and newer has an epoch for each transaction (KIP-890), an older one keeps its own.

Invariants: nothing is compared while a transaction is ending, since how long that takes is not.
"""

from __future__ import annotations

import time
from typing import Any

from tests.twin.batches import batch
from tests.twin.keys import Key
from tests.twin.telling import Side, story

TRANSACTIONAL = 0x10
TIMEOUT_MS = 60_000
BATCHED_FROM, BUMPS_FROM, ADDS_FROM = 4, 5, 5  # versions of AddPartitionsToTxn, EndTxn, TxnOffsetCommit


class Producer:
    """A transactional producer."""

    def __init__(self, at: Side, word: str = "x") -> None:
        self.at, self.name = at, at.name(word)
        self.id = self.epoch = -1
        self.sequence = 0

    async def init(self, what: str, **more: Any) -> Any:
        await self.at.until(
            lambda answer: answer.coordinators[0].error_code.name == "none",
            Key.FIND_COORDINATOR, key_type=1, coordinator_keys=[self.name],
        )  # fmt: skip
        answer = await self.at.ask(
            Key.INIT_PRODUCER_ID, what, **{"transactional_id": self.name, "transaction_timeout": TIMEOUT_MS, **more}
        )
        if answer.error_code.name == "none":
            self.id, self.epoch, self.sequence = answer.producer_id, answer.producer_epoch, 0
        return answer

    async def add(self, what: str, *indexes: int, **other: Any) -> None:
        topics = [dict(name=self.at.name("t"), partitions=indexes)]
        said = {"transactional_id": self.name, "producer_id": self.id, "producer_epoch": self.epoch, **other}
        older = {f"v3_and_below_{field}": value for field, value in said.items() if field != "verify_only"}
        await self.at.ask(
            Key.ADD_PARTITIONS_TO_TXN, what, transactions=[dict(topics=topics, **said)], v3_and_below_topics=topics, **older
        )

    async def send(self, what: str, *values: bytes, partition: int = 0, version: int = 9, **other: Any) -> None:
        """Records; they are of now, as the marker behind them."""
        said = {"epoch": self.epoch, "sequence": self.sequence, "attributes": TRANSACTIONAL, "name": self.name, **other}
        records = batch(
            *values, at_ms=int(time.time() * 1000), producer=(self.id, said["epoch"], said["sequence"]),
            attributes=said["attributes"],
        )  # fmt: skip
        data = [dict(index=partition, records=records)]
        answer = await self.at.ask(
            Key.PRODUCE, what, version=version, acks=-1, timeout=60_000, transactional_id=said["name"],
            topic_data=[dict(name=self.at.name("t"), partition_data=data)],
        )  # fmt: skip
        if answer.responses[0].partition_responses[0].error_code.name == "none":
            self.sequence += len(values)

    async def commit_offsets(self, what: str, offset: int, **other: Any) -> None:
        part = dict(partition_index=0, committed_offset=offset, committed_leader_epoch=-1, committed_metadata="m")
        said = {"producer_id": self.id, "producer_epoch": self.epoch, "transactional_id": self.name, **other}
        await self.at.ask(
            Key.TXN_OFFSET_COMMIT, what, group_id=self.at.name("g"), generation_id=-1,
            topics=[dict(name=self.at.name("t"), partitions=[part])], **said,
        )  # fmt: skip

    async def add_offsets(self, what: str, **other: Any) -> None:
        said = {"producer_id": self.id, "producer_epoch": self.epoch, "transactional_id": self.name, **other}
        await self.at.ask(Key.ADD_OFFSETS_TO_TXN, what, group_id=self.at.name("g"), **said)

    async def end(self, what: str, *, is_commit: bool, **other: Any) -> None:
        said = {"producer_id": self.id, "producer_epoch": self.epoch, "transactional_id": self.name, **other}
        answer = await self.at.ask(Key.END_TXN, what, committed=is_commit, **said)
        if answer.error_code.name == "none" and not other and self.at.version(Key.END_TXN) >= BUMPS_FROM:
            if answer.producer_epoch != self.epoch:
                self.sequence = 0
            self.id, self.epoch = answer.producer_id, answer.producer_epoch
        await self.ended()

    async def ended(self) -> None:
        """Until nothing is ending."""
        await self.at.until(
            lambda answer: self.name not in [each.transactional_id for each in answer.transaction_states],
            Key.LIST_TRANSACTIONS, version=0, state_filters=["PrepareCommit", "PrepareAbort"], producer_id_filters=[],
        )  # fmt: skip


async def prepared(at: Side) -> Producer:
    """A topic, a group, and a producer that has not begun."""
    await at.topic("t", partitions=2)
    await at.until(
        lambda answer: answer.coordinators[0].error_code.name == "none",
        Key.FIND_COORDINATOR, key_type=0, coordinator_keys=[at.name("g")],
    )  # fmt: skip
    return Producer(at)


async def look(at: Side, what: str) -> None:
    """What readers see of partition 0, and of the group."""
    for level in (0, 1):
        part = dict(partition=0, fetch_offset=0, partition_max_bytes=1 << 20, current_leader_epoch=-1, log_start_offset=-1)
        await at.ask(
            Key.FETCH, f"{what}: isolation {level}", version=12, max_wait=0, min_bytes=0, max_bytes=1 << 20, replica_id=-1,
            isolation_level=level, session_id=0, session_epoch=-1, topics=[dict(topic=at.name("t"), partitions=[part])],
        )  # fmt: skip
        end = dict(partition_index=0, timestamp=-1, current_leader_epoch=-1)
        await at.ask(
            Key.LIST_OFFSETS, f"{what}: the end at isolation {level}", version=7, replica_id=-1, isolation_level=level,
            topics=[dict(name=at.name("t"), partitions=[end])],
        )  # fmt: skip
        group = dict(group_id=at.name("g"), topics=[dict(name=at.name("t"), partition_indexes=[0, 1])])
        await at.ask(
            Key.OFFSET_FETCH, f"{what}: offsets, {'stable' if level else 'any'}", version=8, groups=[group],
            require_stable=bool(level),
        )  # fmt: skip


OVER = (
    Key.INIT_PRODUCER_ID, Key.ADD_PARTITIONS_TO_TXN, Key.ADD_OFFSETS_TO_TXN, Key.TXN_OFFSET_COMMIT, Key.END_TXN,
)  # fmt: skip


@story(*OVER)
async def transactions_end(at: Side) -> None:
    producer = await prepared(at)
    await producer.init("begin")
    for number, is_commit in enumerate((True, False, True)):
        await producer.add(f"{number}: partitions", 0, 1)
        await producer.add(f"{number}: partitions again", 0)
        await producer.send(f"{number}: records", b"a%d" % number, b"b%d" % number)
        await producer.send(f"{number}: records elsewhere", b"c", partition=1, sequence=number if number == 0 else 0)
        await producer.add_offsets(f"{number}: a group")
        await producer.commit_offsets(f"{number}: offsets", 10 + number)
        await look(at, f"{number}: while it is open")
        await producer.end(f"{number}: the end", is_commit=is_commit)
        await look(at, f"{number}: when it has ended")
        if number == 0 and at.version(Key.END_TXN) < BUMPS_FROM:
            break  # the sequence of the other partition goes on there
    await producer.end("the end of nothing, commit", is_commit=True, producer_epoch=producer.epoch)
    await producer.end("of a later epoch", is_commit=True, producer_epoch=producer.epoch + 2)
    await producer.end("of another producer", is_commit=True, producer_id=producer.id + 77)
    await producer.end("of an unknown id", is_commit=True, transactional_id=at.name("nobody"))


@story(*OVER)
async def zombies_are_fenced(at: Side) -> None:
    zombie = await prepared(at)
    await zombie.init("begin")
    await zombie.add("partitions", 0)
    await zombie.send("records", b"lost")
    heir = Producer(at)
    first = await heir.init("begin while another goes on")
    assert first.error_code.name == "concurrent_transactions"
    await heir.ended()
    await heir.init("begin again")
    await zombie.add("a zombie's partitions", 0)
    await zombie.send("a zombie's records", b"never")
    await zombie.add_offsets("a zombie's group")
    await zombie.commit_offsets("a zombie's offsets", 5)
    await zombie.end("a zombie's end", is_commit=True)
    if at.version(Key.INIT_PRODUCER_ID) >= 3:
        await zombie.init("a zombie goes on", producer_id=zombie.id, producer_epoch=zombie.epoch)
        await heir.init("the heir goes on", producer_id=heir.id, producer_epoch=heir.epoch)
        await heir.init("the same again", producer_id=heir.id, producer_epoch=heir.epoch - 1)
        await heir.init("an id without an epoch", producer_id=heir.id, producer_epoch=-1)
    await look(at, "in the end")


@story(*(key for key in OVER if key is not Key.END_TXN))
async def what_a_coordinator_refuses(at: Side) -> None:
    producer = await prepared(at)
    await producer.init("a timeout above the limit", transaction_timeout=900_001)
    await producer.init("no timeout", transaction_timeout=0)
    await producer.init("an id that is empty", transactional_id="")
    await producer.add("partitions before the beginning", 0, producer_id=1, producer_epoch=0)
    await producer.init("begin")
    await producer.add("a partition that is not there", 0, 9)
    await producer.add("another epoch", 0, producer_epoch=producer.epoch + 1)
    await producer.add("another producer", 0, producer_id=producer.id + 77)
    if at.version(Key.ADD_PARTITIONS_TO_TXN) >= BATCHED_FROM:
        await producer.add("only asked", 0, verify_only=True)
    await producer.send("records of a partition that was not added", b"x", partition=1)
    await producer.send("records without the id", b"x", name=None)
    await producer.add_offsets("a group, another epoch", producer_epoch=producer.epoch + 1)
    await producer.commit_offsets("offsets, another producer", 5, producer_id=producer.id + 77)
    await producer.add("partitions", 0)
    await producer.send("records", b"x")
    await producer.send("records outside of the transaction", b"y", attributes=0, name=None)


@story(Key.DESCRIBE_TRANSACTIONS, Key.LIST_TRANSACTIONS, Key.DESCRIBE_PRODUCERS, Key.WRITE_TXN_MARKERS)
async def transactions_are_told(at: Side) -> None:
    producer = await prepared(at)
    topic = at.name("t")
    parts = [dict(name=topic, partition_indexes=[0, 1, 9]), dict(name=at.name("none"), partition_indexes=[0])]

    async def tell(what: str) -> None:
        await at.ask(Key.DESCRIBE_TRANSACTIONS, what, transactional_ids=[producer.name, at.name("nobody")])
        for filters in ({"state_filters": ["Ongoing", "Nonsense"]}, {}, {"duration_filter": 3_600_000}):
            fields = {"state_filters": [], "producer_id_filters": [producer.id], "duration_filter": -1, **filters}
            await at.ask(Key.LIST_TRANSACTIONS, f"{what}: {filters}", **fields)
        patterns = (
            producer.name,
            producer.name[:-1],
            ".*",
            ".*-\\d+$",
            "(?i)" + producer.name.upper(),
            "",
            "[",
            "(?=x).*",
            "\\pL.*",
        )
        for number, pattern in enumerate(patterns if at.version(Key.LIST_TRANSACTIONS) > 1 else ()):
            fields = {"state_filters": [], "producer_id_filters": [producer.id], "duration_filter": -1}
            await at.ask(Key.LIST_TRANSACTIONS, f"{what}: pattern {number}", transactional_id_pattern=pattern, **fields)
        await at.ask(Key.DESCRIBE_PRODUCERS, what, topics=parts)

    await producer.at.until(
        lambda answer: answer.coordinators[0].error_code.name == "none",
        Key.FIND_COORDINATOR, key_type=1, coordinator_keys=[producer.name],
    )  # fmt: skip
    begun = await at.until(
        lambda answer: answer.error_code.name == "none",
        Key.INIT_PRODUCER_ID, version=5, transactional_id=producer.name, transaction_timeout=TIMEOUT_MS, producer_id=-1,
        producer_epoch=-1,
    )  # fmt: skip
    producer.id, producer.epoch = begun.producer_id, begun.producer_epoch
    added = [dict(name=topic, partitions=[0])]
    await at.ask_quietly(
        Key.ADD_PARTITIONS_TO_TXN, version=3, v3_and_below_transactional_id=producer.name, v3_and_below_producer_id=producer.id,
        v3_and_below_producer_epoch=producer.epoch, v3_and_below_topics=added,
    )  # fmt: skip
    await producer.send("records", b"x")
    await tell("while it is open")

    async def mark(what: str, *, epoch: int, coordinator: int = 0, is_commit: bool = False) -> None:
        marked = [dict(name=topic, partition_indexes=[0, 9])]
        one = dict(
            producer_id=producer.id, producer_epoch=epoch, transaction_result=is_commit, topics=marked,
            coordinator_epoch=coordinator, transaction_version=0,
        )  # fmt: skip
        await at.ask(Key.WRITE_TXN_MARKERS, what, markers=[one])

    await mark("abort", epoch=producer.epoch + 2, coordinator=3)
    await mark("an older coordinator", epoch=producer.epoch + 2, coordinator=2)
    await mark("an older epoch", epoch=producer.epoch, coordinator=3)
    await look(at, "after the marker")
    await at.ask(Key.DESCRIBE_PRODUCERS, "after the marker", topics=parts)
