"""A transactional producer over the wire, and what a test asks of its broker."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

from kio.schema.errors import ErrorCode

from hotlog.wire import apis
from hotlog.wire.batch import walk
from hotlog.wire.records import decode_batch
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client, Serving, batch_of, fetch, produce, produced

TOPIC, GROUP, NAME = "t", "g", "pay"


class Producer:
    """A transactional producer of one protocol version: 2 as Kafka 4's clients, 1 as those before."""

    def __init__(self, client: Client, level: int, name: str = NAME) -> None:
        self.client, self.level, self.name = client, level, name
        self.producer_id = self.epoch = -1
        self.sequences: dict[int, int] = {}

    async def call(self, key: int, kind: str, version: int, **fields: Any) -> Any:
        return await self.client.call(getattr(apis.requests(key, version), kind)(**fields))

    async def find(self, kind: int, name: str) -> None:
        """Until there is a coordinator."""
        request = apis.requests(10, 4).FindCoordinatorRequest(key_type=kind, coordinator_keys=(name,))
        while code := (await self.client.call(request)).coordinators[0].error_code:
            assert code is ErrorCode.coordinator_not_available, "its topic is being made"
            await asyncio.sleep(0.02)

    async def init(self, version: int = 5, *, goes_on: bool = False, timeout_ms: int = 60_000) -> ErrorCode:
        await self.find(1, self.name)
        known = {"producer_id": self.producer_id, "producer_epoch": self.epoch} if goes_on else {}
        while True:
            answer = await self.call(
                22, "InitProducerIdRequest", version, transactional_id=self.name,
                transaction_timeout=timedelta(milliseconds=timeout_ms), **known,
            )  # fmt: skip
            if answer.error_code is not ErrorCode.concurrent_transactions:
                break
        if not answer.error_code:
            self.producer_id, self.epoch, self.sequences = answer.producer_id, answer.producer_epoch, {}
        return answer.error_code  # type: ignore[no-any-return]

    async def add(self, *partitions: int, version: int = 3) -> list[ErrorCode]:
        shapes = apis.requests(24, version)
        answer = await self.call(
            24, "AddPartitionsToTxnRequest", version, v3_and_below_transactional_id=self.name,
            v3_and_below_producer_id=self.producer_id, v3_and_below_producer_epoch=self.epoch,
            v3_and_below_topics=(shapes.AddPartitionsToTxnTopic(name=TOPIC, partitions=partitions),),
        )  # fmt: skip
        (topic,) = answer.results_by_topic_v3_and_below
        return [part.partition_error_code for part in topic.results_by_partition]

    async def send(self, partition: int, *values: bytes, adds: bool = True) -> ErrorCode:
        if self.level == 1 and adds:
            (code,) = await self.add(partition)
            if code:
                return code
        sequence = self.sequences.get(partition, 0)
        records = batch_of(
            *values, timestamp=int(time.time() * 1000), producer_id=self.producer_id, producer_epoch=self.epoch,
            base_sequence=sequence, is_transactional=True,
        )  # fmt: skip
        topic_id = self.topic_id() if self.level == 2 else None
        version = 13 if self.level == 2 else 9
        while True:
            answer = await self.client.call(
                produce(TOPIC, {partition: records}, version=version, topic_id=topic_id, transactional_id=self.name)
            )
            ((_, code, _),) = produced(answer)
            if code not in (ErrorCode.concurrent_transactions, ErrorCode.not_enough_replicas):
                break
        if not code:
            self.sequences[partition] = sequence + len(values)
        return code

    def topic_id(self) -> Any:
        raise NotImplementedError

    async def end(self, *, is_commit: bool, version: int | None = None) -> ErrorCode:
        version = version if version is not None else (5 if self.level == 2 else 3)
        answer = await self.call(
            26, "EndTxnRequest", version, transactional_id=self.name, producer_id=self.producer_id, producer_epoch=self.epoch,
            committed=is_commit,
        )  # fmt: skip
        if version >= 5 and not answer.error_code:
            if (answer.producer_id, answer.producer_epoch) != (self.producer_id, self.epoch):
                self.sequences = {}
            self.producer_id, self.epoch = answer.producer_id, answer.producer_epoch
        return answer.error_code  # type: ignore[no-any-return]

    async def commit_offsets(self, offset: int, version: int | None = None) -> ErrorCode:
        version = version if version is not None else (5 if self.level == 2 else 3)
        await self.find(0, GROUP)
        if self.level == 1:
            added = await self.call(
                25, "AddOffsetsToTxnRequest", 3, transactional_id=self.name, producer_id=self.producer_id,
                producer_epoch=self.epoch, group_id=GROUP,
            )  # fmt: skip
            assert added.error_code is ErrorCode.none
        shapes = apis.requests(28, version)
        part = shapes.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=offset, committed_metadata="")
        answer = await self.call(
            28, "TxnOffsetCommitRequest", version, transactional_id=self.name, group_id=GROUP, producer_id=self.producer_id,
            producer_epoch=self.epoch, topics=(shapes.TxnOffsetCommitRequestTopic(name=TOPIC, partitions=(part,)),),
        )  # fmt: skip
        return answer.topics[0].partitions[0].error_code  # type: ignore[no-any-return]


class Place:
    """What a test talks to."""

    def __init__(self, served: Serving, client: Client) -> None:
        self.served, self.client = served, client

    def producer(self, level: int, name: str = NAME) -> Producer:
        producer = Producer(self.client, level, name)
        topic = self.served.broker.topic(TOPIC)
        assert topic is not None
        producer.topic_id = lambda: topic.topic_id  # type: ignore[method-assign]
        return producer

    async def seen(self, partition: int = 0, *, isolation: int = 1) -> list[bytes]:
        """Values that a reader gets; it drops what it is told was aborted, as clients do."""
        answer = await self.client.call(fetch(TOPIC, {partition: 0}, isolation=isolation))
        (part,) = answer.responses[0].partitions
        aborted = sorted(part.aborted_transactions or (), key=lambda each: each.first_offset)
        ignored: set[int] = set()
        found: list[bytes] = []

        data = memoryview(part.records or b"")
        for at, header in walk(data):
            while aborted and aborted[0].first_offset <= header.last_offset:
                ignored.add(aborted.pop(0).producer_id)
            if header.is_control:
                ignored.discard(header.producer_id)
            elif header.producer_id not in ignored:
                found += [record.value or b"" for record in decode_batch(data[at : at + header.size])]
        return found

    async def settled(self, name: str = NAME) -> Any:
        """The transactional id once its transaction has ended everywhere."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                described = await self.described(name)
                if not described.transaction_state.startswith("Prepare"):
                    return described
                await asyncio.sleep(0.01)

    async def described(self, name: str = NAME) -> Any:
        shapes = apis.requests(65, 0)
        answer = await self.client.call(shapes.DescribeTransactionsRequest(transactional_ids=(name,)))
        return answer.transaction_states[0]

    async def offset(self, *, is_stable: bool = False) -> tuple[ErrorCode, int]:
        shapes = apis.requests(9, 8)
        topic = shapes.OffsetFetchRequestTopics(name=TOPIC, partition_indexes=(0,))
        group = shapes.OffsetFetchRequestGroup(group_id=GROUP, topics=(topic,))
        answer = await self.client.call(shapes.OffsetFetchRequest(groups=(group,), require_stable=is_stable))
        part = answer.groups[0].topics[0].partitions[0]
        return part.error_code, part.committed_offset

    async def latest(self, isolation: int) -> int:
        shapes = apis.requests(2, 7)
        part = shapes.ListOffsetsPartition(partition_index=0, current_leader_epoch=-1, timestamp=-1)
        request = shapes.ListOffsetsRequest(
            replica_id=-1, isolation_level=isolation, topics=(shapes.ListOffsetsTopic(name=TOPIC, partitions=(part,)),)
        )
        return (await self.client.call(request)).topics[0].partitions[0].offset  # type: ignore[no-any-return]
