"""Direct replay: the same batches in the same order as the log had, from the bucket alone."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, Invalid, StoreUnavailable
from hotlog.wire.batch import header_at
from hotlog.wire.records import NewRecord, Record, encode_batch
from hotlog.world.posix import PosixDisk, SystemEntropy
from tests.cold.lake import CLUSTER, TOPIC_ID, Lake, random_lake
from tests.support.clocks import HandClock
from tests.support.scripted_store import Call, ScriptedStore
from tiering.read.history import History, Shelf
from tiering.replay.direct import DirectReader, Hole, Progress, Run
from tiering.replay.places import AtOffset, AtTime, Place
from tiering.replay.sinks import JsonLinesSink, RawLogSink, RecordSink
from tiering.replay.topic import ReplayRequest, direct_replay
from tiering.store.lanes import Lane, LaneGate


def direct_of(lake: Lake, depth: int = 3) -> DirectReader:
    assert lake.manifest is not None
    shelf = Shelf.of(lake.store, LaneGate(5, 100), 1 << 20)  # type: ignore[arg-type]
    return DirectReader(History(shelf, lake.keys, lake.topic, lake.manifest, lane=Lane.REPLAY), depth=depth)


def wanted_batches(lake: Lake, start: int, end: int) -> bytes:
    headers = zip(lake.batches, lake.headers(), strict=True)
    return b"".join(batch for batch, header in headers if header.last_offset >= start and header.base_offset < end)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    archived=st.sampled_from([0, 4]),
    holes=st.booleans(),
    range_bytes=st.sampled_from([4096, 8192, 16 << 20]),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    depth=st.integers(1, 4),
)
async def test_runs_are_the_batches_of_the_range(
    seed: int,
    archived: int,
    holes: bool,
    range_bytes: int,
    ends: tuple[float, float],
    depth: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tiering.replay.direct.RANGE_BYTES_MAX", range_bytes)
    lake = random_lake(seed, segments=7, archived=archived, holes=holes, heights=seed % 3)
    start, end = sorted(round(part * lake.next_offset) for part in ends)
    data, following, gaps = b"", -1, []
    async with aclosing(direct_of(lake, depth).runs(start, end)) as parts:
        async for part in parts:
            assert part.start_offset >= following
            following = part.end_offset
            if isinstance(part, Hole):
                gaps.append((part.start_offset, part.end_offset))
            else:
                data += part.data
                assert header_at(part.data).base_offset == part.start_offset
    assert data == (wanted_batches(lake, start, end) if start < end else b"")
    if start < end:
        assert gaps == [
            (max(row.base_offset, start), min(row.end_offset, end))
            for row in lake.rows
            if row.is_hole and row.end_offset > start and row.base_offset < end
        ]


async def test_a_batch_larger_than_many_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.replay.direct.RANGE_BYTES_MAX", 4096)
    lake = Lake(ScriptedStore(), chunk_bytes=1024)
    sizes = [100, 30_000, 10, 9000, 60]
    lake.segment([lake.batch([NewRecord(5, None, bytes(size))]) for size in sizes])
    lake.commit()
    parts = [part async for part in direct_of(lake, 2).runs(0, 5)]
    assert b"".join(part.data for part in parts if isinstance(part, Run)) == b"".join(lake.batches)
    parts = [part async for part in direct_of(lake, 2).runs(2, 3)]
    assert b"".join(part.data for part in parts if isinstance(part, Run)) == lake.batches[2]


async def test_a_narrow_range_of_a_large_object_reads_little_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.replay.direct.RANGE_BYTES_MAX", 16_384)
    monkeypatch.setattr("tiering.replay.direct._OVERSHOOT_BYTES", 2048)
    lake = Lake(ScriptedStore())
    lake.segment([lake.batch([NewRecord(5, None, bytes(900))]) for _ in range(1000)])
    lake.commit()
    reader = direct_of(lake)
    parts = [part async for part in reader.runs(500, 510)]
    assert sum(len(part.data) for part in parts if isinstance(part, Run)) == sum(len(lake.batches[n]) for n in range(500, 510))
    assert reader.progress.bytes < 40_000


@pytest.mark.parametrize("damage", ["flip", "missing", "other size"])
async def test_damage_ends_the_runs_at_its_place(damage: str) -> None:
    lake = random_lake(4, segments=5)
    key = lake.keys.object(lake.rows[3].name)
    match damage:
        case "flip":
            raw = bytearray(lake.store.objects[key])
            raw[70] ^= 1
            lake.store.objects[key] = bytes(raw)
        case "missing":
            del lake.store.objects[key]
        case _:
            lake.store.objects[key] = lake.store.objects[key][:-1]
    data = b""
    with pytest.raises(Corrupt):
        async for part in direct_of(lake, depth=4).runs(0, lake.next_offset):
            assert isinstance(part, Run)
            data += part.data
    assert data == wanted_batches(lake, 0, lake.rows[3].base_offset)


async def test_a_failure_while_the_consumer_works_meets_it_at_its_place() -> None:
    import asyncio

    lake = random_lake(4, segments=5)
    key = lake.keys.object(lake.rows[1].name)

    def spoil(call: Call, data: bytes) -> bytes:
        if call.key == key:
            raise StoreUnavailable("503")
        return data

    lake.store.spoil = spoil
    seen = 0
    with pytest.raises(StoreUnavailable):
        async for _ in direct_of(lake, depth=4).runs(0, lake.next_offset):
            for _ in range(100):  # the failing GET ends here, and must not cancel us
                await asyncio.sleep(0)
            seen += 1
    assert seen


# -- the whole replay


def topic(count: int = 3) -> tuple[ScriptedStore, list[Lake]]:
    store = ScriptedStore()
    lakes = []
    for number in range(count):
        lake = random_lake(number + 20, archived=2, partition=number)
        store.objects.update(lake.store.objects)
        lakes.append(lake)
    return store, lakes


async def replay(store: ScriptedStore, sink: object, *, start: Place = None, until: Place = None, **more: object) -> Progress:
    request = ReplayRequest(topic="clicks", cluster_id=CLUSTER, topic_id=TOPIC_ID, partitions=range(4), start=start, until=until)
    return await direct_replay(store, request, sink, clock=HandClock(), entropy=SystemEntropy(), **more)  # type: ignore[arg-type]


async def test_json_lines_of_a_topic_are_its_records_in_order() -> None:
    store, lakes = topic()
    lines: list[dict[str, object]] = []

    async def write(data: bytes) -> None:
        lines.extend(json.loads(line) for line in data.splitlines())

    await replay(store, JsonLinesSink(write))
    for number, lake in enumerate(lakes):
        ours = [line for line in lines if line["partition"] == number]
        assert [(line["offset"], line["timestamp"]) for line in ours] == [(o, t) for o, t, _, _, _ in lake.records()]
    assert len(lines) == sum(len(lake.records()) for lake in lakes)


async def test_records_between_two_times() -> None:
    store, lakes = topic()
    times = sorted(time for lake in lakes for _, time, _, _, _ in lake.records())
    start, until = times[len(times) // 4], times[len(times) // 2]
    seen: dict[int, list[int]] = {}

    async def give(partition: int, records: list[object]) -> None:
        seen.setdefault(partition, []).extend(record.offset for record in records)  # type: ignore[attr-defined]

    await replay(store, RecordSink(give), start=AtTime(start), until=AtTime(until))
    for number, lake in enumerate(lakes):
        first, end = (lake.for_timestamp(time) for time in (start, until))
        offsets = [o for o, _, _, _, _ in lake.records()]
        expected = [o for o in offsets if first and o >= first[0] and (end is None or o < end[0])]
        assert seen.get(number, []) == expected


class CountingSink(RecordSink):
    """Opens nothing."""

    def __init__(self) -> None:
        super().__init__(give=self._nothing)
        self.bytes = 0

    async def _nothing(self, partition: int, records: list[Record]) -> None: ...

    async def take_run(self, partition: int, run: Run) -> None:
        self.bytes += len(run.data)


async def test_progress_and_bounds_by_offset() -> None:
    store, _ = topic()
    shown: list[tuple[int, int]] = []
    sink = CountingSink()
    total = await replay(
        store, sink, start=AtOffset(3), until=AtOffset(10), progress=lambda p: shown.append((p.offsets, p.offsets_total))
    )
    assert total.offsets_total == total.offsets == 21
    assert shown == sorted(shown)
    assert shown[-1] == (21, 21)
    assert total.requests > 0
    assert total.bytes >= sink.bytes > 0
    assert (total.partitions, total.partitions_done) == (3, 3)


async def test_raw_logs_are_the_batches_byte_for_byte(tmp_path: Path) -> None:
    store, lakes = topic()
    sink = RawLogSink(PosixDisk(), str(tmp_path / "out"), "clicks")
    await replay(store, sink)
    await sink.close()
    for number, lake in enumerate(lakes):
        assert (tmp_path / "out" / f"clicks-{number}.log").read_bytes() == b"".join(lake.batches)


async def test_aborted_and_control_batches_give_no_records() -> None:
    from tiering.objects.segment import AbortedTransaction

    lake = Lake(ScriptedStore())
    kept = lake.batch([NewRecord(1, None, b"kept")], producer_id=5, transactional=True)
    gone = lake.batch([NewRecord(2, None, b"gone")] * 2, producer_id=7, transactional=True)
    marker = bytearray(encode_batch([NewRecord(3, b"\0\0\0\0", b"\0" * 6)], base_offset=3, is_transactional=True, producer_id=7))
    marker[22] |= 0x20
    lake.next_offset = 4
    lake.segment([kept, gone, bytes(marker)], [AbortedTransaction(7, 1, 3, 4)])
    lake.commit()
    values: list[object] = []

    async def give(partition: int, records: list[object]) -> None:
        values.extend(record.value for record in records)  # type: ignore[attr-defined]

    await replay(lake.store, RecordSink(give))
    assert values == [b"kept"]


async def test_what_cannot_be_replayed_says_so() -> None:
    store, _ = topic()
    with pytest.raises(Invalid, match="lies before"):
        await replay(store, CountingSink(), start=AtOffset(9), until=AtOffset(3))
    nothing = await replay(ScriptedStore(), CountingSink())
    assert (nothing.offsets, set(nothing.ends.values())) == (0, {0})
