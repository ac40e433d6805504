"""The tier as a broker uses it: real logs, a real directory store; what is copied, when, and what follows from it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.log.producer_snapshot import parse_snapshot
from tests.log.support import T0, append, batch
from tests.support.clocks import HandClock
from tests.tiering.proofs import proven, read_cold
from tests.tiering.support import KEYS, PID, TOPIC_ID, Node, fill, node, tiered
from tests.tools.patience import SOON_S
from tiering.manifest.garbage import clear_garbage, doomed_before
from tiering.manifest.root import Entry
from tiering.objects.segment import Footer, parse_footer


async def test_closed_segments_are_copied_and_read_back_byte_for_byte(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        await fill(log, 30)
        cold = await here.attach(log)
        assert cold.ready
        assert cold.view is None
        assert cold.log_start_offset == cold.end_offset
        await here.copy_all()
        active = log.active.base_offset
        assert (cold.log_start_offset, cold.end_offset, log.tiered_end_offset) == (0, active, active)
        hot = b"".join(Path(info.log_path).read_bytes() for info in log.segments()[:-1])
        assert await read_cold(here, 0, active) == hot
        assert cold.size_bytes == len(hot)
        assert (await proven(here)).end_offset == active
        assert here.metrics.remote_copy_lag_segments.labels("clicks")._value.get() == 0
        assert here.metrics.remote_log_size_bytes.labels("clicks")._value.get() == len(hot)


async def test_one_segment_costs_one_put_and_one_commit(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, _ = await here.filled(30)
        segments = len(log.segments()) - 1
        here.faults.log.clear()
        await here.copy_all()
        assert here.faults.count("put_source") == segments
        assert here.faults.count("put") == segments + 1, "one commit each, and the claim"
        assert here.faults.count("get") <= 1


async def test_the_footer_of_what_was_copied_here_is_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.read.history.CHUNK_BYTES", 1)  # no object is so small that it comes whole with its footer
    async with node(tmp_path) as here:
        log, _ = await here.copied(30)
        segments = len(log.segments()) - 1
        here.faults.log.clear()
        await read_cold(here, 0, log.active.base_offset)
        assert here.faults.count("get") == segments


async def test_a_copy_goes_on_with_its_partition_while_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.tier.TICK_SECONDS_MAX", SOON_S)  # else a slow copy is looked after more often
    async with node(tmp_path) as here:
        _, cold = await here.filled(30)
        begun, fly = 0, here.tier.flights._fly

        def counted(*about: Any) -> None:
            nonlocal begun
            begun += 1
            fly(*about)

        monkeypatch.setattr(here.tier.flights, "_fly", counted)
        await here.copy_all()
        assert cold.view is not None
        assert len(cold.view.entries) >= 8
        assert begun == 1, "one flight for many segments of one partition"


async def test_a_batch_of_uploads_has_the_producers_once(tmp_path: Path) -> None:
    """Each object had a snapshot of all: 4.6 MB with 100,000 producers."""
    async with node(tmp_path) as here:
        log = await here.create()
        cold = await here.attach(log)
        for number in range(24):
            append(log, batch(b"x" * 1900, timestamp=T0 + number, producer=(number, 0, 0)), now_ms=T0 + number)
        await log.flush()
        await here.copy_all()
        assert cold.view is not None
        footers = [await footer_in_store(here, row) for row in cold.view.entries]
        assert [bool(footer.producer_snapshot) for footer in footers] == [number in (15, 22) for number in range(23)]
        assert [row[0] for row in parse_snapshot(footers[22].producer_snapshot)] == list(range(23))
        assert [row[0] for row in parse_snapshot(footers[15].producer_snapshot)] == list(range(16))


async def footer_in_store(here: Node, row: Entry) -> Footer:
    blob = await here.store.get(KEYS.object(row.name))
    return parse_footer(blob.data)


async def test_a_compacted_log_is_copied_as_far_as_it_was_cleaned(tmp_path: Path) -> None:
    async with node(tmp_path) as home:
        log = await home.create(tiered(cleanup_policy="compact", remote_storage_enable="true"))
        cold = await home.attach(log)
        await fill(log, 12)
        closed = log.segments()[:-1]
        assert len(closed) > 2
        await home.copy_all()
        assert cold.view is None, "what was not cleaned would go up twice"
        for end in (closed[0].end_offset, closed[2].end_offset - 1):
            await log.clean.save_cleaned_end(end)
            cold.stir()
            await home.copy_all()
        assert cold.end_offset == closed[1].end_offset, "whole segments only"


async def test_only_what_is_committed_and_closed_is_copied(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        cold = await here.attach(log)
        append(log, batch(b"x" * 100))
        await here.copy_all()
        assert cold.view is None
        await fill(log, 30, start=1)
        await here.copy_all()
        assert cold.end_offset == log.active.base_offset < log.log_end_offset


async def test_what_a_power_loss_may_take_back_is_not_copied(tmp_path: Path) -> None:
    async with node(tmp_path, config=tiered(**{"hotlog.durability": "page-cache"})) as here:
        log = await here.create()
        cold = await here.attach(log)
        for number in range(30):  # in one turn of the loop: readable, segments closed, nothing of it on the device
            append(log, batch(b"x" * 600, timestamp=number))
        assert log.high_watermark == 30 > log.recovery_point
        assert not await here.tier.tick_copy(), "nothing is due yet"
        assert here.metrics.remote_copy_requests.labels("clicks")._value.get() == 0
        await log.flush()
        await here.copy_all()
        assert cold.end_offset == log.active.base_offset > 0


async def test_copying_may_be_disabled_and_resumed(tmp_path: Path) -> None:
    async with node(tmp_path, config=tiered(**{"remote.log.copy.disable": "true"})) as here:
        log, cold = await here.copied(30)
        assert cold.view is None
        assert here.metrics.remote_copy_lag_segments.labels("clicks")._value.get() == len(log.segments()) - 1
        log.reconfigure(tiered())
        await here.copy_all()
        assert cold.end_offset == log.active.base_offset


async def test_advance_start_condemns_rows_below_and_delete_condemns_all(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        _, cold = await here.copied(40)
        assert cold.view is not None
        keep = cold.view.entries[3].base_offset
        await cold.advance_start(keep + 1)
        view = await proven(here)
        assert view.log_start_offset == keep + 1 == cold.log_start_offset
        assert view.entries[0].base_offset == keep, "the row that holds the start stays"
        assert len(view.garbage) == 3
        assert {item.not_before_ms for item in view.garbage} == {T0 + 24 * 3_600_000}
        await here.tier.delete_topic_partition(PID)
        gone = await here.manifest().load()
        assert gone is not None
        assert gone.is_deleted
        assert len(gone.garbage) == 3 + len(view.entries)
        await here.tier.delete_topic_partition(PID)
        assert [store.keys.pid for store in here.tier.manifests()] == [PID]
        assert await here.tier.tiered_range(PID) is None


async def test_tiering_switched_off_and_on_begins_anew(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, _ = await here.copied(20)
        old = await proven(here)
        await here.tier.delete_topic_partition(PID)
        log.advance_log_start(old.end_offset)
        await log.drop_local_before(old.end_offset)
        cold = await here.attach(log)
        assert cold.view is None
        await fill(log, 20, start=20)
        await here.copy_all()
        now = await proven(here)
        assert now.start_offset == old.end_offset
        assert now.end_offset == log.active.base_offset
        assert {row.name for row in old.entries} <= {item.name for item in now.garbage}


async def test_a_manifest_that_is_about_to_begin_anew_is_not_removed(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, _ = await here.copied(20)
        await here.tier.delete_topic_partition(PID)
        log.advance_log_start(log.active.base_offset)
        (reaped,) = here.tier.manifests()
        await reaped.commit(lambda root, _: clear_garbage(root, doomed_before(root, 2**60), not_before_ms=0))
        cold = await here.attach(log)
        await reaped.remove()
        assert await here.manifest().load() is not None
        await fill(log, 20, start=20)
        await here.copy_all()
        assert cold.end_offset == log.active.base_offset
        await here.tier.delete_topic_partition(PID)
        (gone,) = here.tier.manifests()
        await gone.commit(lambda root, _: clear_garbage(root, doomed_before(root, 2**60), not_before_ms=0))
        await gone.remove()
        assert await here.manifest().load() is None


async def test_detach_takes_the_lease_away(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        await here.filled(8)
        here.faults.hold = lambda op, key: op == "put_source"
        await here.tier.tick_copy()
        await here.faults.held.wait()
        copy = here.tier.flights.under_way[PID].task
        await here.tier.detach(PID)
        here.faults.released.set()
        await asyncio.wait([copy])
        manifest = await here.manifest().load()
        assert manifest is not None
        assert manifest.entries == ()


async def test_copy_rate_is_kept(tmp_path: Path) -> None:
    """KIP-956: the second segment waits for the debt of the first, and its lease does not run meanwhile."""
    async with node(tmp_path, **{"remote.log.manager.copy.max.bytes.per.second": 1}) as here:
        _, cold = await here.filled(12)
        while cold.view is None or not cold.view.entries or here.tier.flights.under_way[PID].lease.seconds_left is not None:
            await here.tier.tick_copy()
        assert len(cold.view.entries) == 1
        await here.tier.tick_copy()
        assert here.tier.flights.under_way[PID].lease.seconds_left is None
        assert here.faults.count("put_source") == 1


async def test_many_partitions_share_the_copies_at_once(tmp_path: Path) -> None:
    async with node(tmp_path, **{"remote.log.manager.copier.thread.pool.size": 2}) as here:
        logs = [await here.create(tp=TopicPartition("clicks", number)) for number in range(6)]
        for log in logs:
            await fill(log, 8)
            await here.attach(log)
        most = 0
        here.faults.hold = lambda op, key: op == "put_source"
        for _ in range(3):
            await here.tier.tick_copy()
            most = max(most, len(here.tier.flights))
        assert most == 2
        here.faults.hold = lambda op, key: False
        here.faults.released.set()
        await here.copy_all()
        for log in logs:
            cold = here.tier.get(PartitionId(TOPIC_ID, log.tp.partition))
            assert cold is not None
            assert cold.end_offset == log.active.base_offset


async def test_long_history_spills_and_stays_readable(tmp_path: Path) -> None:
    """More rows than the root holds: they go to archive pages, and reads by offset and time find everything."""
    async with node(tmp_path, clock=HandClock()) as here:
        log = await here.create(tiered(**{"segment.bytes": "1024", "index.interval.bytes": "100"}))
        cold = await here.attach(log)
        await fill(log, 230, records=1, value_bytes=900)
        await here.copy_all(2000)
        manifest = await proven(here)
        assert manifest.totals.rows == len(log.segments()) - 1 >= 200
        assert len(manifest.archive) == 1
        assert len(manifest.entries) < 192
        hot = b"".join(Path(info.log_path).read_bytes() for info in log.segments()[:-1])
        assert await read_cold(here, 0, cold.end_offset) == hot
        random = Random(7)
        for _ in range(20):
            offset = random.randrange(cold.end_offset)
            assert await cold.offset_for_timestamp(T0 + offset * 10 - 3) == (offset, T0 + offset * 10, 0)
        await cold.advance_start(70)
        assert (await proven(here)).readable_start_offset == 70
