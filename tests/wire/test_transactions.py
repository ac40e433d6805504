"""The APIs of transactions over the wire, at their oldest and newest versions: what is answered, and what readers see."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kio.schema.errors import ErrorCode

from hotlog.apis.produce import readiness
from hotlog.coordinators.record_log import PartitionRecords
from hotlog.wire import apis
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Serving, api_versions, batch_of, fetch, produce, produced, serving
from tests.wire.transacting import GROUP, NAME, TOPIC, Place, Producer

SETTINGS = {"transaction.state.log.num.partitions": "1", "offsets.topic.num.partitions": "1"}


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path, SETTINGS) as each:
        await each.broker.create_topic(TOPIC, 2, {"remote.storage.enable": "false"})
        yield each


@pytest_asyncio.fixture
async def place(served: Serving) -> Place:
    return Place(served, await served.connect())


LEVELS = pytest.mark.parametrize("level", [1, 2])


@LEVELS
async def test_committed_records_are_seen_at_once_and_whole_and_aborted_ones_never(place: Place, level: int) -> None:
    producer = place.producer(level)
    assert await producer.init() is ErrorCode.none
    for number, is_commit in enumerate((True, False, True)):
        assert await producer.send(0, b"a%d" % number) is ErrorCode.none
        assert await producer.send(0, b"b%d" % number) is ErrorCode.none
        assert await producer.send(1, b"c%d" % number) is ErrorCode.none
        before = await place.seen()
        assert b"a%d" % number not in before
        assert b"a%d" % number in await place.seen(isolation=0)
        assert await place.latest(0) == 2 + 3 * number
        assert await place.latest(1) == 3 * number
        assert await producer.end(is_commit=is_commit) is ErrorCode.none
        await place.settled()
        assert await place.seen() == before + ([b"a%d" % number, b"b%d" % number] if is_commit else [])
    assert await place.seen(1) == [b"c0", b"c2"]
    assert await place.latest(1) == 9


@LEVELS
async def test_a_reader_that_waits_is_woken_by_the_end(place: Place, level: int) -> None:
    producer = place.producer(level)
    await producer.init()
    await producer.send(0, b"x")
    reader = await place.served.connect()
    correlation = reader.send(request := fetch(TOPIC, {0: 0}, isolation=1, wait_ms=50_000))
    await place.served.working()
    await producer.end(is_commit=True)
    answer = await reader.answer(request, correlation)
    assert answer.responses[0].partitions[0].last_stable_offset == 2
    assert answer.responses[0].partitions[0].records


@LEVELS
async def test_a_newer_producer_fences_the_older_one(place: Place, level: int) -> None:
    zombie, producer = place.producer(level), place.producer(level)
    await zombie.init()
    await zombie.send(0, b"lost")
    assert await producer.init() is ErrorCode.none
    assert producer.producer_id == zombie.producer_id
    assert producer.epoch > zombie.epoch
    assert await zombie.send(0, b"never", adds=False) is ErrorCode.invalid_producer_epoch
    assert await zombie.end(is_commit=True) is ErrorCode.producer_fenced
    assert await zombie.init(goes_on=True) is ErrorCode.producer_fenced
    assert await producer.send(0, b"seen") is ErrorCode.none
    assert await producer.end(is_commit=True) is ErrorCode.none
    await place.settled()
    assert await place.seen() == [b"seen"]


async def test_a_late_record_begins_no_transaction(place: Place) -> None:
    """KIP-890: what arrives after its transaction has ended would hang for ever."""
    producer = place.producer(1)
    await producer.init()
    await producer.send(0, b"in time")
    await producer.end(is_commit=True)
    await place.settled()
    assert await producer.send(0, b"late", adds=False) is ErrorCode.invalid_txn_state
    assert await place.latest(1) == 2
    ghost = place.producer(1, "never-initialized")
    ghost.producer_id, ghost.epoch = producer.producer_id, 0
    assert await ghost.send(1, b"x", adds=False) is ErrorCode.invalid_producer_id_mapping
    place.served.broker.settings = place.served.broker.settings.resolve(
        {**place.served.broker.settings.given, "transaction.partition.verification.enable": "false"}
    )
    assert await producer.send(0, b"unchecked", adds=False) is ErrorCode.none


class Held:
    """A `room` that the first who asks for it finds only once it is `free`."""

    def __init__(self) -> None:
        self.asked, self.free = asyncio.Event(), asyncio.Event()

    async def __call__(self, *_: Any) -> None:
        if not self.asked.is_set():
            self.asked.set()
            await self.free.wait()


async def test_what_waits_while_its_transaction_ends_begins_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """KIP-890, where the transaction was open when the records came: they waited for a thread or the disk, and would hang for ever."""
    producer = place.producer(1)
    await producer.init()
    await producer.send(0, b"in time")
    partition = place.served.broker.partition(TOPIC, 0)
    assert partition is not None
    monkeypatch.setattr(readiness, "INLINE_APPEND_BYTES_MAX", 10)
    large = batch_of(
        b"late", timestamp=int(time.time() * 1000), producer_id=producer.producer_id, producer_epoch=producer.epoch,
        base_sequence=1, is_transactional=True,
    )  # fmt: skip
    other = await place.served.connect()
    request = produce(TOPIC, {0: large}, version=9, transactional_id=NAME)
    async with partition.log._large.turn:
        correlation = other.send(request)
        async with asyncio.timeout(PATIENCE_S):
            while not partition.log._large._in_turn:
                await asyncio.sleep(0.01)
        await producer.end(is_commit=False)
        await place.settled()
    ((_, code, _),) = produced(await other.answer(request, correlation))
    assert code is ErrorCode.invalid_txn_state
    assert await place.latest(1) == await place.latest(0) == 2


@LEVELS
async def test_offsets_that_wait_while_their_transaction_ends_begin_none(
    place: Place, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = place.producer(level)
    await producer.init()
    assert await producer.commit_offsets(5) is ErrorCode.none
    held = Held()
    monkeypatch.setattr(PartitionRecords, "room", held)
    late = Producer(await place.served.connect(), 2)  # adds nothing before
    late.producer_id, late.epoch = producer.producer_id, producer.epoch
    waiting = asyncio.create_task(late.commit_offsets(6, 5 if level == 2 else 4))
    await held.asked.wait()
    await producer.end(is_commit=True)
    await place.settled()
    held.free.set()
    assert await waiting in (ErrorCode.invalid_txn_state, ErrorCode.invalid_producer_epoch)
    assert await place.offset(is_stable=True) == (ErrorCode.none, 5)


@LEVELS
async def test_a_topic_made_anew_with_fewer_partitions_holds_no_transaction_up(place: Place, level: int) -> None:
    broker = place.served.broker
    producer = place.producer(level)
    await producer.init()
    assert await producer.send(0, b"x") is await producer.send(1, b"x") is ErrorCode.none
    topic = broker.topic(TOPIC)
    assert topic is not None
    await broker.delete_topics([topic.topic_id])
    await broker.create_topic(TOPIC, 1, {"remote.storage.enable": "false"})
    assert await producer.end(is_commit=True) is ErrorCode.none
    assert (await place.settled()).transaction_state == "CompleteCommit"


async def test_records_of_a_transaction_need_its_id_and_nothing_else_goes_on_beside_it(place: Place) -> None:
    producer = place.producer(1)
    await producer.init()
    await producer.send(0, b"x")
    own = {"producer_id": producer.producer_id, "producer_epoch": producer.epoch}
    outside = produce(TOPIC, {0: batch_of(b"x", base_sequence=1, **own)})
    assert produced(await place.client.call(outside))[0][1] is ErrorCode.invalid_txn_state
    nameless = produce(TOPIC, {0: batch_of(b"x", base_sequence=1, is_transactional=True, **own)})
    assert produced(await place.client.call(nameless))[0][1] is ErrorCode.transactional_id_authorization_failed


@LEVELS
async def test_offsets_come_with_the_transaction(place: Place, level: int) -> None:
    producer = place.producer(level)
    await producer.init()
    for number, is_commit in enumerate((True, False)):
        assert await producer.commit_offsets(10 + number) is ErrorCode.none
        assert await place.offset(is_stable=True) == (ErrorCode.unstable_offset_commit, -1)
        assert await place.offset() == (ErrorCode.none, 10 if number else -1)
        assert await producer.end(is_commit=is_commit) is ErrorCode.none
        await place.settled()
        assert await place.offset(is_stable=True) == (ErrorCode.none, 10)
    zombie = place.producer(level)
    zombie.producer_id, zombie.epoch = producer.producer_id, producer.epoch - 1
    if level == 2:
        assert await zombie.commit_offsets(99) is ErrorCode.invalid_producer_epoch


async def test_a_transaction_that_takes_too_long_is_aborted(place: Place) -> None:
    producer = place.producer(2)
    await producer.init(timeout_ms=50)
    await producer.send(0, b"slow")
    async with asyncio.timeout(PATIENCE_S):
        while (await place.described()).transaction_state != "CompleteAbort":
            await asyncio.sleep(0.01)
    assert await place.seen() == []
    assert await place.latest(1) == 2
    assert await producer.send(0, b"slower") is ErrorCode.invalid_producer_epoch
    assert await producer.init(goes_on=True) is ErrorCode.none, "it may go on (KIP-360)"
    await producer.send(0, b"quick")
    await producer.end(is_commit=True)
    await place.settled()
    assert await place.seen() == [b"quick"]


async def test_what_init_producer_id_refuses(place: Place) -> None:
    producer = place.producer(2)
    assert await producer.init(timeout_ms=900_001) is ErrorCode.invalid_transaction_timeout
    assert await producer.init(timeout_ms=0) is ErrorCode.invalid_transaction_timeout
    shapes = apis.requests(22, 6)
    ask = {"transactional_id": NAME, "transaction_timeout": timedelta(seconds=1)}
    two_phase = shapes.InitProducerIdRequest(**ask, enable2_pc=True, keep_prepared_txn=False)
    assert (await place.client.call(two_phase)).error_code is ErrorCode.transactional_id_authorization_failed
    kept = shapes.InitProducerIdRequest(**ask, enable2_pc=False, keep_prepared_txn=True)
    assert (await place.client.call(kept)).error_code is ErrorCode.unsupported_version
    nameless = shapes.InitProducerIdRequest(**{**ask, "transactional_id": ""}, enable2_pc=False, keep_prepared_txn=False)
    assert (await place.client.call(nameless)).error_code is ErrorCode.invalid_request


@pytest.mark.parametrize("version", range(6))
async def test_every_version_of_the_older_apis(place: Place, version: int) -> None:
    producer = place.producer(1)
    assert await producer.init(min(version, 5)) is ErrorCode.none
    fenced = ErrorCode.producer_fenced if version >= 2 else ErrorCode.invalid_producer_epoch
    if version <= 3:
        assert await producer.add(0, 1, version=version) == [ErrorCode.none, ErrorCode.none]
        assert await producer.add(0, 7, version=version) == [
            ErrorCode.operation_not_attempted, ErrorCode.unknown_topic_or_partition
        ]  # fmt: skip
        producer.epoch += 1
        assert await producer.add(0, version=version) == [fenced]
        producer.epoch -= 1
    await producer.find(0, GROUP)
    if version <= 4:
        added = await producer.call(
            25, "AddOffsetsToTxnRequest", version, transactional_id=NAME, producer_id=producer.producer_id,
            producer_epoch=producer.epoch + 1, group_id=GROUP,
        )  # fmt: skip
        assert added.error_code is fenced
        producer.level = 1
    else:
        producer.level = 2
    assert await producer.commit_offsets(5, version) is ErrorCode.none
    assert await producer.end(is_commit=True, version=version) is ErrorCode.none
    await place.settled()
    assert await place.offset() == (ErrorCode.none, 5)


@pytest.mark.parametrize("version", [4, 5])
async def test_brokers_ask_about_several_transactions_at_once(place: Place, version: int) -> None:
    one, two = place.producer(2, "one"), place.producer(2, "two")
    await one.init()
    await two.init()
    shapes = apis.requests(24, version)

    def asked(producer: Producer, *partitions: int, is_question: bool) -> Any:
        return shapes.AddPartitionsToTxnTransaction(
            transactional_id=producer.name, producer_id=producer.producer_id, producer_epoch=producer.epoch,
            verify_only=is_question, topics=(shapes.AddPartitionsToTxnTopic(name=TOPIC, partitions=partitions),),
        )  # fmt: skip

    request = shapes.AddPartitionsToTxnRequest(transactions=(asked(one, 0, is_question=False), asked(two, 1, is_question=True)))
    answer = await place.client.call(request)
    codes = {
        result.transactional_id: result.topic_results[0].results_by_partition[0].partition_error_code
        for result in answer.results_by_transaction
    }
    assert codes == {"one": ErrorCode.none, "two": ErrorCode.transaction_abortable}


@pytest.mark.parametrize("version", [1, 2])
async def test_an_administrator_ends_a_hanging_transaction(place: Place, version: int) -> None:
    producer = place.producer(1)
    await producer.init()
    await producer.send(0, b"hangs")
    described = await place.client.call(
        apis.requests(61, 0).DescribeProducersRequest(
            topics=(apis.requests(61, 0).TopicRequest(name=TOPIC, partition_indexes=(0, 9)),)
        )
    )
    part, unknown = described.topics[0].partitions
    assert unknown.error_code is ErrorCode.unknown_topic_or_partition
    (state,) = part.active_producers
    assert (state.producer_id, state.last_sequence, state.current_txn_start_offset) == (producer.producer_id, 0, 0)
    shapes = apis.requests(27, version)
    marker = shapes.WritableTxnMarker(
        producer_id=state.producer_id, producer_epoch=state.producer_epoch, transaction_result=False, coordinator_epoch=0,
        topics=(shapes.WritableTxnMarkerTopic(name=TOPIC, partition_indexes=(0, 9)),),
    )  # fmt: skip
    answer = await place.client.call(shapes.WriteTxnMarkersRequest(markers=(marker,)))
    codes = [part.error_code for part in answer.markers[0].topics[0].partitions]
    assert codes == [ErrorCode.none, ErrorCode.unknown_topic_or_partition]
    assert await place.latest(1) == 2
    assert await place.seen() == []


async def test_transactions_are_listed_and_described(place: Place) -> None:
    producer, other = place.producer(2), place.producer(2, "other")
    await producer.init()
    await other.init()
    await producer.send(0, b"x")
    described = await place.described()
    assert (described.transaction_state, described.producer_epoch) == ("Ongoing", producer.epoch)
    assert [(topic.topic, topic.partitions) for topic in described.topics] == [(TOPIC, (0,))]
    assert (await place.described("nobody")).error_code is ErrorCode.transactional_id_not_found

    async def listed(version: int = 1, **filters: Any) -> list[str]:
        shapes = apis.requests(66, version)
        fields: dict[str, Any] = {"state_filters": (), "producer_id_filters": (), "duration_filter": -1, **filters}
        answer = await place.client.call(shapes.ListTransactionsRequest(**fields))
        return sorted(state.transactional_id for state in answer.transaction_states)

    assert await listed(0) == ["other", NAME]
    assert await listed(state_filters=("Ongoing", "Nonsense")) == [NAME]
    assert await listed(producer_id_filters=(other.producer_id,)) == ["other"]
    assert await listed(state_filters=("Ongoing",), duration_filter=3_600_000) == []
    for pattern, found in (
        ("oth.*", ["other"]),
        ("oth", []),
        ("", ["other", NAME]),
        (".*", ["other", NAME]),
        ("(?i)OTHER|x", ["other"]),
    ):
        assert await listed(2, transactional_id_pattern=pattern) == found
    shapes = apis.requests(66, 2)
    wrong = shapes.ListTransactionsRequest(state_filters=(), producer_id_filters=(), transactional_id_pattern="[")
    assert (await place.client.call(wrong)).error_code is ErrorCode.invalid_regular_expression


@pytest.mark.parametrize("version", range(5))
async def test_clients_are_told_the_transaction_version(place: Place, version: int) -> None:
    answer = await place.client.call(api_versions(version))
    if version < 3:
        assert not hasattr(answer, "finalized_features")
        return
    (feature,) = [one for one in answer.finalized_features if one.name == "transaction.version"]
    assert (feature.max_version_level, answer.finalized_features_epoch) == (2, 0)
    supported = [(one.min_version, one.max_version) for one in answer.supported_features if one.name == "transaction.version"]
    assert supported == ([(0, 2)] if version >= 4 else [])


async def test_the_end_survives_a_restart_at_any_state(tmp_path: Path) -> None:
    for number, is_commit in itertools.product(range(2), (True, False)):
        path = tmp_path / f"{number}-{is_commit}"
        async with serving(path, SETTINGS) as served:
            await served.broker.create_topic(TOPIC, 2, {"remote.storage.enable": "false"})
            place = Place(served, await served.connect())
            producer = place.producer(2)
            await producer.init()
            await producer.send(0, b"x")
            await producer.commit_offsets(7)
            if number:
                await producer.end(is_commit=is_commit)
            epoch = producer.epoch
        async with serving(path, SETTINGS) as served:
            place = Place(served, await served.connect())
            producer = place.producer(2)
            if not number:
                assert (await place.described()).transaction_state == "Ongoing"
                assert await place.latest(1) == 0
                assert await place.offset(is_stable=True) == (ErrorCode.unstable_offset_commit, -1)
            assert await producer.init() is ErrorCode.none
            assert producer.epoch > epoch
            is_there = bool(number) and is_commit
            assert await place.seen() == ([b"x"] if is_there else [])
            assert await place.offset(is_stable=True) == (ErrorCode.none, 7 if is_there else -1)


async def test_a_coordinator_is_named_once_it_can_answer_however_many_ask_first(tmp_path: Path) -> None:
    """The topic is in the image before its logs are open: whoever came in between was told of a coordinator that was none."""
    async with serving(tmp_path, SETTINGS) as served:

        async def begin(number: int) -> ErrorCode:
            return await Producer(await served.connect(), 1, f"p{number}").init()

        assert set(await asyncio.gather(*(begin(number) for number in range(30)))) == {ErrorCode.none}
