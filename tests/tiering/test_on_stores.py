"""The tier's write side on every form of store: conditional commits, segment objects and pages as S3 really answers."""

from __future__ import annotations

from pathlib import Path
from random import Random

from hotlog.kernel.metrics import Metrics
from hotlog.log.manager import LogManager
from hotlog.world.ports import ObjectStore
from hotlog.world.posix import PosixDisk, SystemEntropy
from tests.log.support import T0
from tests.support.clocks import HandClock
from tests.tiering.support import CLUSTER, KEYS, PID, TOPIC_ID, TP, fill, row, settings, tiered
from tests.tools.patience import SOON_S
from tiering.manifest.edits import advance_start, append, blank
from tiering.manifest.root import ENTRIES_MAX
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.manifest.verify import verify_partition
from tiering.tier import ColdTier


async def test_copy_commit_prove_and_delete(store: ObjectStore, tmp_path: Path) -> None:
    disk, clock, entropy, metrics, given = PosixDisk(2), HandClock(), SystemEntropy(), Metrics(), settings()
    logs = LogManager(clock, disk, entropy, given, metrics, f"{tmp_path}/data")
    await logs.open(config_of=lambda tp: tiered())
    tier = ColdTier(
        store=store, clock=clock, disk=disk, entropy=entropy, settings=given, metrics=metrics, cache_dir=None, cluster_id=CLUSTER
    )
    await tier.start()
    log = await logs.create(TP, TOPIC_ID, tiered(), leader_epoch=4)
    cold = await tier.attach(PID, "clicks", log, leader_epoch=4)
    await fill(log, 20)
    while await tier.tick_copy():
        pass
    assert cold.end_offset == log.active.base_offset > 0
    hot = b"".join(Path(info.log_path).read_bytes() for info in log.segments()[:-1])
    piece = await cold.read(0, len(hot), wait_ms=int(SOON_S * 1000))
    assert bytes(piece.data) == hot[: len(piece.data)]
    assert len(piece.data) > 0
    report = await verify_partition(store, CLUSTER, PID, deep=True)
    assert (report.problems, report.unreferenced) == ([], [])
    assert report.log_bytes_proven == len(hot)
    await tier.delete_topic_partition(PID)
    gone = await tier.manifest_of(PID).load()
    assert gone is not None
    assert gone.is_deleted
    assert len(gone.garbage) == report.objects
    await tier.close()
    await logs.close()
    disk.close()


async def test_pages_and_lost_races(store: ObjectStore) -> None:
    random, clock = Random(3), HandClock()
    one, two = (
        ManifestStore(ManifestMeans(store=store, clock=clock, entropy=SystemEntropy()), KEYS, topic="clicks") for _ in range(2)
    )

    rows = []
    base = 0
    for _ in range(ENTRIES_MAX):
        rows.append(row(base, base + 5, random))
        base += 5

    def add_all(manifest, _):  # type: ignore[no-untyped-def]
        for entry in rows:
            manifest = append(manifest, entry, epoch=0)
        return manifest

    await one.commit(add_all, create=lambda: blank(PID, "clicks", epoch=0, created_ms=T0))
    await two.load()
    settled = await one.settle()
    assert settled is not None
    (ref,) = settled.archive
    assert (await two.page(ref)).rows() == tuple(rows[:128])
    moved = await two.commit(lambda manifest, pages: advance_start(manifest, 12, pages, not_before_ms=1))
    assert moved.start_offset == 10
    assert moved.generation == settled.generation + 1
    assert await one.load() == moved
