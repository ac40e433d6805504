"""A data directory and a bucket that an earlier release wrote are opened, read, and gone on with.

golden/home-manifest-v1.tar.xz: written before manifests had addresses.  Topic clicks: offsets 0 to 114, a record each ("value N"); 0 to 109 in the
store, in segments of five, rows in three archive pages and the root; deleted below 27; local from 90 on; group "readers" committed 42.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from compaction.reaper import reap
from hotlog.broker.broker import Broker
from hotlog.kernel.ids import PartitionId
from hotlog.wire.batch import header_at
from hotlog.wire.records import decode_batch
from tests.admin.node import coordinator_made, open_directory_store, running
from tests.admin.test_groups import Client
from tests.admin.test_life import TP, produce, tier, values_cold
from tiering.manifest.codec import FORMAT
from tiering.manifest.verify import verify_partition

GOLDEN = Path(__file__).parent / "golden"
DELETED_BELOW, TIERED_END, END = 27, 110, 115


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN / "home-manifest-v1.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def version_of(home: Path) -> int:
    (root,) = (home / "store").rglob("data/*/*/0/manifest")
    return int.from_bytes(root.read_bytes()[8:10], "big")


async def values_hot(broker: Broker, start: int, end: int) -> list[bytes]:
    found, offset = [], start
    while offset < end:
        data = memoryview((await broker.logs.get(TP).read_blocking(offset, 1_000_000, min_one=True)).data)
        while len(data):
            header = header_at(data)
            found += [bytes(record.value or b"") for record in decode_batch(data[: header.size])]
            offset, data = header.next_offset, data[header.size :]
    return found


async def proven(broker: Broker, pid: PartitionId, home: Path) -> int:
    """Objects of the partition, every byte of them held against the manifest."""
    store = await open_directory_store(home / "store")
    report = await verify_partition(store, broker.cluster_id, pid, deep=True)
    await store.close()
    assert report.problems == []
    return report.objects


def test_the_home_is_of_an_earlier_version(home: Path) -> None:
    assert version_of(home) == 1 < FORMAT.version


async def test_a_home_of_an_earlier_release_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.manifest.spill.ENTRIES_MAX", 6)
    monkeypatch.setattr("tiering.manifest.spill.SPILL_ENTRIES", 4)
    value = b"value %d"
    async with running(home) as broker:
        partition = broker.partition("clicks", 0)
        assert (partition.log_start_offset, partition.cold.end_offset, partition.log.log_end_offset) == (
            DELETED_BELOW,
            TIERED_END,
            END,
        )
        assert await values_cold(broker, DELETED_BELOW, TIERED_END) == [value % n for n in range(DELETED_BELOW, TIERED_END)]
        assert await values_hot(broker, 90, END) == [value % n for n in range(90, END)]
        assert version_of(home) == 1, "reading writes nothing"
        await coordinator_made(broker)
        assert await Client(broker, "readers").fetch() == {0: 42}
        for first in range(END, 160, 5):
            await produce(broker, first, 5)
            await tier(broker, first + 5)
        assert version_of(home) == FORMAT.version
        root = partition.cold.view
        assert len(root.garbage_ranges) == 2
        assert len(root.archive) > 3, "pages of both versions"
    async with running(home) as broker:
        partition = broker.partition("clicks", 0)
        expected = [value % n for n in range(DELETED_BELOW, END)] + [b"%d" % n for n in range(END, 160)]
        assert await values_cold(broker, DELETED_BELOW, 160) == expected
        assert await proven(broker, partition.pid, home) == (160 - 25) // 5
        await partition.delete_records(72)  # rows of a page of the version before are doomed by this one
        store, manifest = broker.tier._store, partition.cold.manifest
        while await reap(store, manifest, now_ms=2**60, grace_ms=0):
            pass
        assert await proven(broker, partition.pid, home) == (160 - 70) // 5
        assert len(list((home / "store").rglob("*.seg"))) == (160 - 70) // 5, "what was deleted is gone, and only that"
