"""The tier in trouble: a store that goes away, loses answers or is wiped, two leaders, damage, restarts and kills."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from hotlog.kernel.errors import Fenced, NotReady, StoreUnavailable
from hotlog.kernel.ids import PartitionId, TopicPartition
from hotlog.wire.batch import walk
from tests.log.support import read_all
from tests.support.faulty_store import Faults, Killed
from tests.tiering.proofs import CLUSTER, proven
from tests.tiering.support import KEYS, PID, TOPIC_ID, Node, fill, node, row, tiered
from tests.tools.patience import SOON_S
from tiering.flights import next_plan
from tiering.manifest.edits import append as append_row
from tiering.manifest.edits import claim
from tiering.manifest.verify import verify_partition
from tiering.upload.copier import Lease


async def test_store_away_at_attach_delays_and_nothing_else(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        here.faults.is_down = True
        cold = await here.attach(log)
        assert not cold.ready
        with pytest.raises(NotReady):
            await cold.read(0, 100)
        await fill(log, 30)
        assert len(await read_all(log)) == 30, "the hot tier serves"
        await here.copy_all()
        assert not cold.ready
        here.faults.is_down = False
        here.clock.ms += 60_000
        await here.copy_all()
        assert cold.ready
        assert cold.end_offset == log.active.base_offset


async def test_failures_back_off_and_are_counted(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, cold = await here.filled(30)
        here.faults.is_down = True
        await here.copy_all()
        tried = here.faults.calls
        assert cold.failures == 1
        assert here.metrics.remote_copy_errors.labels("clicks")._value.get() == 1
        assert cold.view is None
        await here.copy_all()
        assert here.faults.calls == tried, "not before its time"
        here.faults.is_down = False
        here.clock.ms += 60_000
        await here.copy_all()
        assert cold.end_offset == log.active.base_offset
        assert cold.failures == 0


async def test_a_hung_upload_is_abandoned_and_others_go_on(tmp_path: Path) -> None:
    other = TopicPartition("clicks", 1)
    async with node(tmp_path) as here:
        log, log2 = await here.create(), await here.create(tp=other)
        cold, cold2 = await here.attach(log), await here.attach(log2)
        await fill(log, 8)
        await fill(log2, 30)
        here.faults.hold = lambda op, key: op == "put_source" and key.startswith(KEYS.prefix)
        for _ in range(1000):
            await here.tier.tick_copy()
            if cold2.end_offset == log2.active.base_offset:
                break
        await here.faults.held.wait()
        assert cold2.end_offset == log2.active.base_offset, "the other partition is not held up"
        assert cold.view is not None
        assert cold.view.end_offset == -1
        here.faults.hold = lambda op, key: False
        here.clock.ms += 3_600_000  # the lease is over
        await here.tier.tick_copy()
        here.clock.ms += 60_000
        await here.copy_all()
        assert cold.end_offset == log.active.base_offset
        here.faults.released.set()  # the hung call comes back to life: its result counts for nothing
        await asyncio.sleep(0)
        await here.copy_all()
        assert (await proven(here)).end_offset == log.active.base_offset


async def test_a_lost_answer_of_the_commit_is_not_a_second_row(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, _ = await here.filled(30)
        here.faults.lose_reply_of = lambda op, key: op == "put" and key == KEYS.manifest
        await here.copy_all()
        manifest = await proven(here)
        assert manifest.end_offset == log.active.base_offset
        assert here.faults.count("put_source") == len(manifest.entries), "nothing was uploaded twice"
        assert (await verify_partition(here.store, CLUSTER, PID)).unreferenced == []


async def test_commit_in_doubt_is_committed_again_without_a_second_upload(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, _ = await here.filled(8)
        here.faults.lose_reply_of = lambda op, key: key == KEYS.manifest and here.faults.count("put_source") > 0
        await here.copy_all()  # neither the commit nor its read-back is answered
        here.faults.lose_reply_of = lambda op, key: False
        here.clock.ms += 60_000
        await here.copy_all()
        manifest = await proven(here)
        assert manifest.end_offset == log.active.base_offset
        assert here.faults.count("put_source") == len(manifest.entries)


async def test_an_older_epoch_can_not_commit(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, cold = await here.copied(8, leader_epoch=3)
        before = await proven(here)
        await here.manifest().commit(lambda root, _: claim(root, 4, "clicks"))  # a newer leader takes over
        await fill(log, 20, start=8)
        await here.copy_all()
        here.clock.ms += 60_000
        await here.copy_all()
        after = await proven(here)
        assert after.epoch == 4
        assert after.entries == before.entries
        assert "epoch 4" in cold.problem
        assert log.tiered_end_offset == before.end_offset
        again = await here.attach(log, leader_epoch=5)
        await here.copy_all()
        assert again.end_offset == log.active.base_offset
        assert {row.epoch for row in (await proven(here)).entries} == {3, 5}


async def test_two_leaders_racing_leave_one_line(tmp_path: Path) -> None:
    """Same bytes, two epochs, uploads interleaved: rows stay disjoint, whoever is fenced says so."""
    async with node(tmp_path / "a") as first:
        log = await first.create()
        await fill(log, 60)
        old = await first.attach(log, leader_epoch=1)
        second = type(first.tier)(
            store=first.store, clock=first.clock, disk=first.disk, entropy=first.logs._entropy, settings=first.tier._settings,
            metrics=first.metrics, cache_dir=None, cluster_id=CLUSTER,
        )  # fmt: skip
        new = await second.attach(PID, "clicks", log, leader_epoch=2)
        while not (old.problem and new.end_offset == log.active.base_offset):
            if not any(await asyncio.gather(first.tier.tick_copy(), second.tick_copy())):
                first.clock.ms += 40_000  # who failed may try again
        manifest = await proven(first)
        assert manifest.epoch == 2
        assert manifest.end_offset == log.active.base_offset == new.end_offset
        assert old.problem
        await second.close()


async def test_damaged_segment_is_never_uploaded(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        await fill(log, 30)
        victim = Path(log.segments()[1].log_path)
        raw = bytearray(victim.read_bytes())
        raw[len(raw) // 2] ^= 0x10
        victim.write_bytes(raw)
        cold = await here.attach(log)
        await here.copy_all()
        manifest = await proven(here)
        assert manifest.end_offset == log.segments()[1].base_offset, "up to the damage"
        assert here.metrics.corruption.labels("copy")._value.get() >= 1
        assert cold.failures >= 1
        assert len([key for key in await here.objects() if key.endswith(".seg")]) == 1


async def test_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, _ = await here.copied(30)
        end = log.active.base_offset
    async with node(tmp_path) as here:
        restarted = here.logs.get(TopicPartition("clicks", 0))
        assert restarted is not None
        cold = await here.attach(restarted, leader_epoch=1)
        assert cold.end_offset == end == restarted.tiered_end_offset
        await fill(restarted, 30, start=30)
        await here.copy_all()
        manifest = await proven(here)
        assert manifest.end_offset == restarted.active.base_offset
        assert manifest.epoch == 1


async def test_local_log_behind_the_tiered_end_is_refused_and_can_begin_anew(tmp_path: Path) -> None:
    async with node(tmp_path / "one") as here:
        log, _ = await here.copied(30)
        end = log.active.base_offset
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "store").rename(tmp_path / "two" / "store")  # the disk is gone, the bucket is not
    async with node(tmp_path / "two") as here:
        assert await here.tier.tiered_range(PID) == (0, end)
        assert await here.tier.tiered_range(PartitionId(TOPIC_ID, 9)) is None
        log = await here.create()
        cold = await here.attach(log, leader_epoch=1)
        assert f"tiered end {end}" in cold.problem
        await fill(log, 8)
        await here.copy_all()
        assert (await proven(here)).end_offset == end, "nothing is copied over it"
        await here.tier.detach(PID)
        await here.logs.delete(TopicPartition("clicks", 0))
        log = await here.logs.create(
            TopicPartition("clicks", 0), TOPIC_ID, tiered(), start_offset=end, leader_epoch=2, log_start_offset=0
        )
        cold = await here.attach(log, leader_epoch=2)
        assert (cold.problem, log.log_start_offset, cold.log_start_offset) == ("", 0, 0)
        await fill(log, 30)
        await here.copy_all()
        manifest = await proven(here)
        assert manifest.end_offset == log.active.base_offset > end
        assert manifest.totals.holes == 0


async def test_a_wiped_bucket_is_said_and_not_papered_over(tmp_path: Path) -> None:
    """Fault 39: offsets that only the store had are gone with it; no new manifest pretends they never were."""
    async with node(tmp_path) as here:
        log, _ = await here.copied(30)
        await log.drop_local_before(log.segments()[4].end_offset)
        assert log.log_start_offset == 0 < log.local_log_start_offset
        await here.store.delete(await here.objects())
        cold = await here.attach(log, leader_epoch=1)
        assert "wiped or wrong bucket" in cold.problem
        await fill(log, 10, start=30)
        await here.copy_all()
        assert await here.objects() == []
        assert here.metrics.corruption.labels("boundary")._value.get() == 1
        log.advance_log_start(log.local_log_start_offset)
        local_start = log.segments()[0].base_offset
        log.advance_log_start(local_start)
        await here.copy_all()
        assert cold.problem == ""
        assert (cold.log_start_offset, cold.end_offset) == (local_start, log.active.base_offset)


async def test_a_gap_is_recorded_and_said(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log, cold = await here.copied(8)
        first_end = cold.end_offset
        await fill(log, 40, start=8)
        gap_end = log.segments()[4].end_offset
        log.advance_log_start(gap_end)
        await log.drop_local_before(gap_end, expired=True)
        await here.copy_all()
        manifest = await proven(here)
        holes = [(row.base_offset, row.end_offset, row.hole) for row in manifest.entries if row.is_hole]
        assert holes == [(first_end, gap_end, "deleted before it was copied")]
        assert manifest.end_offset == log.active.base_offset
        piece = await cold.read(first_end, 100, wait_ms=int(SOON_S * 1000))
        assert next(walk(piece.data))[1].base_offset == gap_end, "readers go on behind the hole"
        assert here.metrics.corruption.labels("hole")._value.get() == 1


@pytest.mark.parametrize("is_done_first", [False, True])
async def test_killed_at_every_store_call_nothing_is_lost_or_doubled(tmp_path: Path, is_done_first: bool) -> None:
    """A life that dies at its k-th store call, then one that lives: what is committed is whole, and the rest follows."""
    async with node(tmp_path / "base") as here:
        log = await here.create()
        await fill(log, 12)
        await here.attach(log)
        here.faults.calls = 0
        await here.copy_all()
        calls, end = here.faults.calls, log.active.base_offset
    assert calls >= 5
    for kill_at in range(1, calls + 1):
        root = tmp_path / f"run{kill_at}"
        faults = Faults()
        try:
            async with node(root, faults=faults) as here:
                log = await here.create()
                await fill(log, 12)
                await here.attach(log)
                faults.calls, faults.kill_at, faults.is_done_first = 0, kill_at, is_done_first
                await _until_dead(here)
                raise AssertionError(f"call {kill_at} never came")
        except Killed:
            pass
        async with node(root) as here:
            back = here.logs.get(TopicPartition("clicks", 0))
            assert back is not None
            assert len(await read_all(back)) == 12, "the hot tier lost nothing"
            cold = await here.attach(back, leader_epoch=1)
            if cold.view is not None:
                assert back.tiered_end_offset <= cold.view.end_offset or cold.view.end_offset < 0
                assert (await verify_partition(here.store, CLUSTER, PID, deep=True)).problems == []
            await here.copy_all()
            manifest = await proven(here)
            assert (manifest.start_offset, manifest.end_offset) == (0, end)
            orphans = (await verify_partition(here.store, CLUSTER, PID)).unreferenced
            assert len(orphans) <= 1, "at most the upload that was under way"


async def _until_dead(here: Node) -> None:
    """Tick until the store call that kills; a copy task that was killed says so here."""
    more = True
    while more:
        more = await here.tier.tick_copy()
        failure = here.tier._scope._failure
        if isinstance(failure, Killed):
            raise failure


async def test_delete_while_the_store_is_away_says_so(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        await here.copied(8)
        here.faults.is_down = True
        with pytest.raises(StoreUnavailable):
            await here.tier.delete_topic_partition(PID)
        here.faults.is_down = False
        await here.tier.delete_topic_partition(PID)
        manifest = await here.manifest().load()
        assert manifest is not None
        assert manifest.is_deleted


async def test_appending_to_a_deleted_manifest_is_fenced(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        _, cold = await here.copied(8)
        other = here.manifest()
        await other.load()
        end = cold.end_offset
        await here.tier.delete_topic_partition(PID)
        entry = row(end, end + 9, Random(1))
        with pytest.raises(Fenced, match="marked deleted"):
            await other.commit(lambda root, _: append_row(root, entry, epoch=0))


@pytest.mark.parametrize("when", ["while it uploads", "while it commits"])
async def test_a_copy_whose_lease_was_revoked_never_commits(tmp_path: Path, when: str) -> None:
    async with node(tmp_path) as here:
        log, cold = await here.filled(8)
        plan = next_plan(cold, here.clock.now_ms())
        assert plan is not None
        lease = Lease(here.clock)
        await here.tier.flights._copier.claim(cold.target)
        what = "put_source" if when == "while it uploads" else "put"
        here.faults.hold = lambda op, key: op == what
        copy = asyncio.create_task(here.tier.flights._copier.copy(cold.target, plan, lease))
        await here.faults.held.wait()
        if what == "put":  # the commit under way loses its race, so that it would be tried again
            rival = here.manifest()
            here.faults.hold = lambda op, key: False
            await rival.load()
            await rival.commit(lambda root, _: claim(root, 0, "renamed"))
        lease.revoke()
        here.faults.released.set()
        with pytest.raises(Fenced, match="lease was given away"):
            await copy
        root = await here.manifest().load()
        assert root is not None
        assert root.entries == ()
        assert log.tiered_end_offset == 0
        assert cold.target.pending is None, "the object is an orphan: nobody commits it later"
