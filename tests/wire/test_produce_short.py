"""The short way of Produce against the general one: what is read, what passes, what is answered, and what lies in the log at the end."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.apis.produce import plan, short_way
from hotlog.apis.produce.short_way import ShortWay
from hotlog.kernel.errors import HotlogError
from hotlog.log.partition_log import PartitionLog
from hotlog.log.writer import Appended
from hotlog.partitions.partition import Partition
from hotlog.wire import produce as general
from hotlog.wire.apis import parse_header, response_head, skip_tags
from hotlog.wire.batch import check_produced, header_at
from hotlog.wire.inspect import INLINE, inspect
from hotlog.wire.plain_batch import sound
from hotlog.wire.produce_short import NOT_SHORT, Answers, Named, named, split_of
from tests.fixtures.raw_batch import RawRecord, raw_batch
from tests.log import support
from tests.support.disks import IO, FaultyDisk
from tests.wire.serving import Serving, batch_of, frame_of, parsed, produce, produced, serving
from tests.wire.test_records import Rules

VERSIONS = general.VERSIONS
NOW = support.T0
NAMES = st.text(min_size=1, max_size=40)


def request_frame(
    version: int,
    records: bytes,
    *,
    name: str = "t",
    topic_id: UUID | None = None,
    index: int = 0,
    acks: int = -1,
    client: str | None,
) -> bytes:
    """A request without its size."""
    return frame_of(produce(name, {index: records}, version=version, acks=acks, topic_id=topic_id), 7, client)[4:]


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=25, deadline=None)
@given(
    name=NAMES, topic_id=st.uuids(), index=st.integers(0, 2**31 - 1), acks=st.integers(-2, 2), client=st.none() | NAMES,
    size=st.sampled_from([0, 1, 126, 127, 128, 16_382, 16_383, 16_384]), before=st.integers(0, 9),
)  # fmt: skip
def test_a_request_is_split_where_its_records_begin(
    version: int, name: str, topic_id: UUID, index: int, acks: int, client: str | None, size: int, before: int
) -> None:
    """Wherever it lies in a larger buffer."""
    frame = request_frame(version, b"r" * size, name=name, topic_id=topic_id, index=index, acks=acks, client=client)
    data, end = memoryview(b"b" * before + frame + b"after"), before + len(frame)
    if len(name.encode()) > 126 and 9 <= version < 13:
        return
    behind, begin, stop = split_of(version)(data, before, end)
    assert bytes(data[begin:stop]) == b"r" * size
    what = named(version, data, before, behind)
    by_id = version >= general.TOPIC_ID_FROM
    assert what == Named(acks, what.timeout_ms, None if by_id else name, topic_id if by_id else None, index)


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=60, deadline=None)
@given(
    name=st.text(min_size=1, max_size=5), topic_id=st.uuids(), size=st.sampled_from([0, 5, 130]), at=st.integers(0, 80),
    junk=st.binary(min_size=1, max_size=3) | st.sampled_from([b"\0", b"\1", b"\2", b"\x80", b"\x80\0", b"\xff", b"\xff\xff"]),
    is_put_in=st.booleans(),
)  # fmt: skip
def test_what_is_bent_is_split_as_the_general_way_reads_it_or_not_at_all(
    version: int, name: str, topic_id: UUID, size: int, at: int, junk: bytes, is_put_in: bool
) -> None:
    frame = request_frame(version, b"r" * size, name=name, topic_id=topic_id, client="c")
    at = min(at + 8, len(frame))
    frame = frame[:at] + junk + frame[at if is_put_in else at + len(junk) :]
    data = memoryview(bytearray(frame))
    with suppress(*NOT_SHORT):
        behind, begin, stop = split_of(version)(data, 0, len(frame))
        what = named(version, data, 0, behind)
        _, position = parse_header(data)
        read = general.decode(version, data, skip_tags(data, position) if version >= general.FLEXIBLE_FROM else position)
        (topic,) = read.topics
        (part,) = topic.partitions
        assert read.transactional_id is None
        assert what == Named(read.acks, read.timeout_ms, topic.name, topic.topic_id, part.partition)
        assert bytes(data[begin:stop]) == bytes(part.records or b"")


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=20, deadline=None)
@given(
    name=NAMES, topic_id=st.uuids(), index=st.integers(0, 2**31 - 1), base=st.integers(0, 2**63 - 1), start=st.integers(0, 2**63 - 1),
    correlation=st.integers(-(2**31), 2**31 - 1),
)  # fmt: skip
def test_answers_are_those_of_the_general_way(
    version: int, name: str, topic_id: UUID, index: int, base: int, start: int, correlation: int
) -> None:
    by_id = version >= general.TOPIC_ID_FROM
    what = Named(1, 1, None if by_id else name, topic_id if by_id else None, index)
    answers = Answers(version, what)

    def theirs(result: general.PartitionResult) -> bytes:
        body = general.encode(version, [general.TopicResult(what.name, what.topic_id, [result])])
        return response_head(0, version, correlation, len(body)) + body

    done = general.PartitionResult(index, ErrorCode.none, base, -1, start)
    assert answers.done(correlation, base, start) == theirs(done)
    code = ErrorCode.request_timed_out
    assert answers.refused(correlation, code, "late") == theirs(general.PartitionResult(index, code, message="late"))


RECORDS = st.lists(
    st.builds(
        RawRecord,
        timestamp=st.sampled_from([-1, 0, NOW - 10, NOW, NOW + 5_000]),
        key=st.none() | st.binary(max_size=3),
        value=st.none() | st.binary(max_size=40),
        headers=st.just(()),
        delta=st.none() | st.none() | st.none() | st.integers(0, 2),
        attributes=st.just(0),
    ),
    min_size=1,
    max_size=4,
)
FIELDS = st.sampled_from(
    ["base_offset", "length", "magic", "crc", "attributes", "delta", "largest", "producer", "epoch", "sequence", "count"]
)
OFFSETS = {
    "base_offset": (0, ">q"), "length": (8, ">i"), "magic": (16, ">b"), "crc": (17, ">i"), "attributes": (21, ">h"), "delta": (23, ">i"),
    "largest": (35, ">q"), "producer": (43, ">q"), "epoch": (51, ">h"), "sequence": (53, ">i"), "count": (57, ">i"),
}  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    records=RECORDS, field=st.none() | FIELDS, value=st.integers(-2, 9), more=st.sampled_from([b"", b"", b"", b"\0"]),
    is_compacted=st.booleans(), is_log_append_time=st.booleans(), is_strict=st.booleans(), bytes_max=st.sampled_from([70, 1000]),
)  # fmt: skip
def test_what_passes_one_look_passes_all_others_unchanged(
    records: list[RawRecord], field: str | None, value: int, more: bytes, is_compacted: bool, is_log_append_time: bool, is_strict: bool,
    bytes_max: int,
) -> None:  # fmt: skip
    batch = bytearray(raw_batch(records) + more)
    if field is not None:
        at, layout = OFFSETS[field]
        struct.pack_into(layout, batch, at, value)
        if field != "crc":
            struct.pack_into(">I", batch, 17, crc32c(batch[21:]))
    limits = (-20, 1000) if is_strict else (-(2**63) + 1, 2**63 - 1)
    rules = Rules(*limits, is_log_append_time=is_log_append_time, is_compacted=is_compacted)
    before = bytes(batch)
    fields = sound(memoryview(batch), bytes_max, rules, NOW)
    assert bytes(batch) == before
    try:
        (header,) = check_produced(memoryview(batch), batch_bytes_max=bytes_max)
        seen = inspect(memoryview(batch), header, rules, NOW, INLINE)
    except HotlogError:
        assert fields is None
        return
    is_plain = seen is header and not header.attributes and not is_log_append_time
    assert (fields is not None) == is_plain
    if fields is not None:
        assert fields == tuple(header)


STEPS = st.lists(
    st.tuples(
        st.integers(1, 4), st.integers(0, 300), st.sampled_from([-1, -1, 7, 8]), st.integers(-5, 3600_000), st.integers(0, 6)
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, is_fsynced=st.booleans())
async def test_a_log_is_the_same_whichever_way_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int, int, int]], is_fsynced: bool
) -> None:
    """Small segments and indexes that roll, producers that begin, go on and repeat themselves."""
    topic = support.config(
        segment_bytes=1500, index_interval_bytes=200, segment_index_bytes=48, segment_ms=1000_000,
        hotlog_durability="fsync" if is_fsynced else "page-cache",
    )  # fmt: skip
    async with (
        support.opened(tmp_path_factory.mktemp("a"), topic) as here,
        support.opened(tmp_path_factory.mktemp("b"), topic) as there,
    ):
        plain, long = await support.new_log(here, topic), await support.new_log(there, topic)
        next_sequence: dict[int, int] = {}
        taken = 0
        for count, size, producer, later_ms, repeat in steps:
            sequence = next_sequence.get(producer, 0)
            if repeat == 0 and producer >= 0:
                sequence = max(0, sequence - count)
            elif producer >= 0:
                next_sequence[producer] = sequence + count
            data = support.batch(
                *[b"v" * size] * count,
                timestamp=NOW + later_ms,
                producer=(producer, 0, sequence) if producer >= 0 else (-1, -1, -1),
            )
            assert len(data) <= 1500
            taken += append_either(plain, data) >= 0
            outcome_of(long, data)
        await plain.flush()
        await long.flush()
        assert taken or len(steps) < 5 or all(step[2] >= 0 or step[4] == 0 for step in steps) or plain.segment_count > 1
        assert state_of(plain) == state_of(long)
        assert [Path(s.log_path).read_bytes() for s in plain.segments()] == [
            Path(s.log_path).read_bytes() for s in long.segments()
        ]


def append_either(log: PartitionLog, data: bytearray) -> int:
    """Append plainly if that can be, else generally; what the first said."""
    view = memoryview(bytearray(data))
    before = bytes(view)
    base = log.append_plain(view, tuple(header_at(view)), NOW)  # type: ignore[arg-type]
    if base < 0:
        assert bytes(view) == before
        outcome_of(log, data)
    return base


def outcome_of(log: PartitionLog, data: bytearray) -> None:
    with suppress(HotlogError):
        support.append(log, data)


def state_of(log: PartitionLog) -> object:
    segments = [(s.base_offset, s.end_offset, s.size, s.max_timestamp, s.max_timestamp_offset) for s in log.segments()]
    indexes = [(bytes(s.offsets.pending), s.offsets.length, bytes(s.times.pending), s.times.length) for s in log._segments.all]
    return segments, indexes, log.log_end_offset, log.high_watermark, log.durable_end, log.producers.encode()


async def test_an_append_that_the_disk_refuses_leaves_the_batch_as_it_was(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with support.opened(tmp_path, disk=disk) as logs:
        log = await support.new_log(logs)
        for _ in range(2):
            support.append(log, support.batch(b"a"))
        data = support.batch(b"b")
        view = memoryview(bytearray(data))
        disk.fail("append", "*.log", IO)
        with pytest.raises(HotlogError):
            log.append_plain(view, tuple(header_at(view)), NOW)  # type: ignore[arg-type]
        assert bytes(view) == bytes(data)
        assert log.log_end_offset == 2
        assert log.append_plain(view, tuple(header_at(view)), NOW) == -1, "a failed log takes nothing more"  # type: ignore[arg-type]


@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
async def test_a_client_sees_no_difference(tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same requests to two brokers, one without short ways, in bursts and one by one: the same answers and the same logs."""
    chance = random.Random(3)
    short_ones = 0
    answer = ShortWay.answer

    def counted(self: ShortWay, *arguments: object) -> object:
        nonlocal short_ones
        found = answer(self, *arguments)  # type: ignore[arg-type]
        short_ones += found is not None
        return found

    monkeypatch.setattr(ShortWay, "answer", counted)
    taken, append_plain, slow_ones = 0, plan._append_plain, list[Partition]()

    def of_several(request: general.ProduceRequest, partition: Partition, *rest: object) -> Appended | None:
        """The short way of one batch of many, which one of the two brokers does not have."""
        nonlocal taken
        if partition in slow_ones:
            return None
        found = append_plain(request, partition, *rest)  # type: ignore[arg-type]
        taken += found is not None
        return found

    monkeypatch.setattr(plan, "_append_plain", of_several)
    choices = {"hotlog.durability": durability}
    async with serving(tmp_path / "a", choices) as quick, serving(tmp_path / "b", choices) as slow:
        slow.connections.dispatch.short_doors.clear()
        ids = []
        for served in (quick, slow):
            ids.append((await served.broker.create_topic("t", 3)).topic_id)
        slow_ones += slow.broker.hosted()
        clients = [await served.connect() for served in (quick, slow)]
        for _ in range(90):
            burst = [some_request(chance) for _ in range(chance.choice([1, 1, 5, 30]))]
            both: list[list[object]] = []
            for client, topic_id in zip(clients, ids, strict=True):
                requests = [made(topic_id) for made in burst]
                for request in requests:
                    client.send(request, client_id="c")
                answers: list[object] = []
                for request in requests:
                    if request.acks:
                        frame = await client.frame()
                        version = request.__version__
                        parsed(0, version, frame, struct.unpack(">i", frame[:4])[0])
                        answers.append(frame.replace(topic_id.bytes, b"i" * 16))
                both.append(answers)
            assert both[0] == both[1]
            for served in (quick, slow):
                for partition in served.broker.hosted():
                    await partition.log.flush()  # a segment that was rolled and is not on the device sends all the long way
        for number in range(3):
            logs = [served.broker.partition("t", number).log for served in (quick, slow)]  # type: ignore[union-attr]
            for log in logs:
                await log.flush()  # acks=0 waits for nothing
            assert state_of(logs[0]) == state_of(logs[1])
        names = ("kafka_network_requests_total", "kafka_network_request_errors_total")
        for name in names:
            assert quick.counted(name, api="Produce") == slow.counted(name, api="Produce")
        for name in ("bytesin", "messagesin"):
            metric = f"kafka_server_brokertopicmetrics_{name}_total"
            assert quick.counted(metric, topic="t") == slow.counted(metric, topic="t") > 0
    assert short_ones > 100
    assert taken > 30


def some_request(chance: random.Random) -> object:
    """A function that makes a request for a topic's id."""
    version = chance.choice(list(VERSIONS))
    records = bytes(
        batch_of(
            *[b"v" * chance.choice([1, 100, 5000])] * chance.choice([1, 3]), timestamp=chance.choice([None, 1_500_000_000_000])
        )
    )
    kind = chance.random()
    if kind < 0.1:
        records = records[:-1] + bytes([records[-1] ^ 1])
    elif kind < 0.2:
        records = bytes(batch_of(b"x", codec=chance.choice(["lz4", "gzip"])))
    elif kind < 0.3:
        records = b"" if kind < 0.25 else records + records
    partitions = {chance.choice([0, 1, 2, 2, 9]): records} if kind < 0.7 else some_parts(chance, records)
    acks = chance.choice([-1, -1, 1, 1, 0, 3]) if 0.35 <= kind < 0.7 and 9 not in partitions else chance.choice([-1, 1])
    name = "t" if chance.random() < 0.9 or acks == 0 else "nowhere"

    def made(topic_id: UUID) -> object:
        given_id = (topic_id if name == "t" else UUID(int=5)) if version >= general.TOPIC_ID_FROM else None
        return produce(name, partitions, version=version, acks=acks, topic_id=given_id)

    return made


def some_parts(chance: random.Random, records: bytes) -> dict[int, bytes]:
    """Batches for several partitions, now and then one that is not plain among them."""
    odd = {1: bytes(batch_of(b"x", codec="lz4")), 2: b"", 3: bytes(batch_of(b"y")) * 2}
    numbers = chance.sample([0, 1, 2], k=chance.choice([2, 3]))
    return {number: odd.get(chance.randrange(12), records) for number in numbers}


async def test_what_was_learnt_is_forgotten_with_its_partition(tmp_path: Path) -> None:
    """A topic that was deleted, and one of its name that came after it."""
    async with serving(tmp_path) as served:
        client = await served.connect()
        for _ in range(2):
            topic = await served.broker.create_topic("t", 1)
            for base in range(3):
                assert produced(await client.call(produce("t", {0: batch_of(b"x")}))) == [(0, ErrorCode.none, base)]
            await served.broker.delete_topics([topic.topic_id])
            answer = produced(await client.call(produce("t", {0: batch_of(b"x")})))
            assert answer == [(0, ErrorCode.unknown_topic_or_partition, -1)]


async def test_what_is_learnt_is_bounded_however_clients_call_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_way, "PLACES_MAX", 8)
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        kept = served.broker.kept[short_way.Places]
        most = 0
        for number in range(40):
            for name in (f"c{number}", "c" * 300 + str(number)):
                request = produce("t", {0: batch_of(b"x")}, version=7 + number % 2)
                assert produced(await client.answer(request, client.send(request, client_id=name)))[0][1] is ErrorCode.none
            most = max(most, sum(map(len, kept._by_version)))
            assert max((len(known) for places in kept._by_version for known in places), default=0) <= short_way.NAMED_BYTES_MAX
        assert 4 <= most <= 8


async def test_an_ack_that_does_not_come_in_time_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        await client.call(produce("t", {0: batch_of(b"x")}))
        with held_syncs(served):
            request = produce("t", {0: batch_of(b"y")}, version=9)
            frame = bytearray(frame_of(request, 99))
            at = frame.index(struct.pack(">hi", -1, request.timeout // timedelta(milliseconds=1)))
            struct.pack_into(">i", frame, at + 2, 20)
            client.writer.write(frame)
            (outcome,) = produced(parsed(0, 9, await client.frame(), 99))
            assert outcome[1] is ErrorCode.request_timed_out
        assert served.counted("kafka_network_request_errors_total", api="Produce") == 1


class held_syncs:
    """No log of the broker comes to the device meanwhile."""

    def __init__(self, served: Serving) -> None:
        self._logs = [partition.log for partition in served.broker.hosted()]

    def __enter__(self) -> None:
        for log in self._logs:
            log._syncer.is_held = True

    def __exit__(self, *_: object) -> None:
        for log in self._logs:
            log._syncer.let_go()
