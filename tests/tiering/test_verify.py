"""`manifest verify` finds every kind of damage, and only damage."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hotlog.kernel.errors import NotFound, StoreUnavailable
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import CHUNK_BYTES, RANGE_BYTES_MAX
from tests.tiering.support import CLUSTER, KEYS, PID, TOPIC_ID, Node, fill, node, tiered
from tiering.manifest.edits import mark_deleted
from tiering.manifest.root import Manifest
from tiering.manifest.verify import Report, describe_manifest, load_manifest, verify_partition
from tiering.objects.keys import PartitionKeys


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose partition has nine rows in the store."""
    async with node(tmp_path) as made:
        await made.copied(30)
        yield made


async def verify(here: Node, *, deep: bool = True) -> Report:
    return await verify_partition(here.store, CLUSTER, PID, deep=deep)


async def manifest_of(here: Node) -> Manifest:
    return await load_manifest(here.store, CLUSTER, PID)


async def change(here: Node, key: str, position: int) -> None:
    body = bytearray(bytes((await here.store.get(key)).data))
    body[position] ^= 0x20
    await here.store.put(key, bytes(body))


async def test_a_sound_partition(here: Node) -> None:
    manifest = await manifest_of(here)
    seen: list[tuple[int, int]] = []
    report = await verify_partition(here.store, CLUSTER, PID, deep=True, progress=lambda done, total: seen.append((done, total)))
    assert report.is_sound
    assert report.exit_code == 0
    assert (report.objects, report.records) == (manifest.totals.rows, manifest.totals.records)
    assert (report.object_bytes, report.log_bytes_proven) == (manifest.totals.object_bytes, manifest.totals.log_bytes)
    assert report.batches == manifest.totals.records // 3
    assert seen[-1] == (report.objects, report.objects)
    here.faults.log.clear()
    quick = await verify(here, deep=False)
    assert quick.is_sound
    assert quick.log_bytes_proven == 0
    assert len(here.faults.log) == 1 + len(manifest.entries), "one request for the root, one an object"


async def test_no_manifest_is_told_from_a_lost_one(here: Node) -> None:
    other = PartitionId(TOPIC_ID, 7)
    report = await verify_partition(here.store, CLUSTER, other)
    assert [problem.kind for problem in report.problems] == ["no-manifest"]
    with pytest.raises(NotFound):
        await load_manifest(here.store, CLUSTER, other)
    await here.store.delete([KEYS.manifest])
    (problem,) = (await verify(here)).problems
    assert problem.kind == "missing"
    assert "objects lie here without a manifest" in problem.detail


async def test_missing_and_damaged_objects_are_named_and_the_walk_goes_on(here: Node) -> None:
    rows = (await manifest_of(here)).entries
    keys = [KEYS.object(row.name) for row in rows]
    await here.store.delete([keys[0]])
    await change(here, keys[1], rows[1].log_bytes + 3)  # footer
    await change(here, keys[2], rows[2].size - 1)  # trailer
    await here.store.put(keys[3], (await here.store.get(keys[4])).data)  # another object's bytes
    await here.store.put(keys[5], bytes((await here.store.get(keys[5])).data) + b"x")  # size
    await change(here, keys[6], rows[6].log_bytes // 2)  # log: only the deep walk can see it
    quick = await verify(here, deep=False)
    assert [(problem.kind, problem.key) for problem in quick.problems] == [
        ("missing", keys[0]), ("damaged", keys[1]), ("damaged", keys[2]), ("damaged", keys[3]), ("damaged", keys[5]),
    ]  # fmt: skip
    deep = await verify(here)
    assert [problem.key for problem in deep.problems] == [*keys[:4], *keys[5:7]]
    assert deep.problems[-1].start_offset == rows[6].base_offset
    assert deep.objects == len(rows) - 6
    assert deep.exit_code == 1


async def test_every_byte_of_an_object_is_proven(here: Node) -> None:
    row = (await manifest_of(here)).entries[0]
    key = KEYS.object(row.name)
    body = bytes((await here.store.get(key)).data)
    for position in range(0, len(body), 41):
        await here.store.put(key, body)
        await change(here, key, position)
        assert [problem.kind for problem in (await verify(here)).problems] == ["damaged"], position


async def test_damaged_manifest_is_one_problem(here: Node) -> None:
    await change(here, KEYS.manifest, 60)
    (problem,) = (await verify(here)).problems
    assert (problem.kind, problem.key) == ("damaged", KEYS.manifest)


async def test_orphans_and_foreign_objects_are_facts_not_problems(here: Node) -> None:
    orphan = KEYS.object("00000000000000000001-0-" + "ab" * 16 + ".seg")
    await here.store.put(orphan, b"left by a crash")
    await here.store.put(KEYS.prefix + "notes.txt", b"left by a person")
    report = await verify(here)
    assert report.is_sound
    assert report.unreferenced == sorted([orphan, KEYS.prefix + "notes.txt"])


async def test_garbage_is_known(here: Node) -> None:
    cold = here.tier.get(PID)
    assert cold is not None
    assert cold.view is not None
    await cold.advance_start(cold.view.entries[4].base_offset)
    report = await verify(here)
    assert report.is_sound
    assert report.unreferenced == []
    assert report.log_start_offset == cold.log_start_offset
    await cold.manifest.commit(lambda root, _: mark_deleted(root, now_ms=1, not_before_ms=2))
    gone = await verify(here)
    assert gone.is_sound
    assert (gone.objects, gone.unreferenced) == (0, [])


async def test_a_commit_meanwhile_is_not_damage(here: Node) -> None:
    """An object that expires and is deleted while the walk is under way is no missing object."""
    cold = here.tier.get(PID)
    assert cold is not None
    assert cold.view is not None
    doomed = cold.view.entries[3]
    is_done = False

    class Meanwhile:
        def __getattr__(self, name: str) -> object:
            return getattr(here.store, name)

        def bind(self, **_: object) -> Meanwhile:
            return self

        async def get(self, key: str, start: int = 0, end: int | None = None) -> object:
            nonlocal is_done
            if key == KEYS.object(doomed.name) and not is_done:
                is_done = True
                await cold.advance_start(doomed.end_offset)
                await here.store.delete([key])
            return await here.store.get(key, start, end)

    report = await verify_partition(Meanwhile(), CLUSTER, PID)  # type: ignore[arg-type]
    assert is_done
    assert report.is_sound
    assert report.log_start_offset == doomed.end_offset


async def test_store_away_is_no_verdict(here: Node) -> None:
    here.faults.is_down = True
    with pytest.raises(StoreUnavailable):
        await verify(here)


async def test_described_manifest_is_plain(here: Node) -> None:
    manifest = await manifest_of(here)
    plain = json.loads(json.dumps(describe_manifest(manifest)))
    assert plain["topic"] == "clicks"
    assert plain["end_offset"] == manifest.end_offset
    assert PartitionKeys(CLUSTER, PID).object(plain["entries"][0]["name"]) == KEYS.object(manifest.entries[0].name)
    assert plain["totals"]["rows"] == len(manifest.entries)


async def test_batches_across_chunks_and_ranges_are_proven(tmp_path: Path) -> None:
    """A log part of several GETs: batches lie across chunk and range borders, and a flip in any of them is found."""
    async with node(tmp_path, config=tiered(**{"segment.bytes": str(24 << 20)})) as big:
        log = await big.create()
        await fill(log, 30, records=1, value_bytes=900_000)
        await big.attach(log)
        await big.copy_all()
        manifest = await manifest_of(big)
        (row,) = manifest.entries
        assert row.log_bytes > RANGE_BYTES_MAX + CHUNK_BYTES
        report = await verify(big)
        assert report.is_sound
        assert report.batches == row.records
        for position in (CHUNK_BYTES - 1, CHUNK_BYTES, RANGE_BYTES_MAX - 1, RANGE_BYTES_MAX, row.log_bytes - 1):
            await change(big, KEYS.object(row.name), position)
            assert [problem.kind for problem in (await verify(big)).problems] == ["damaged"]
            await change(big, KEYS.object(row.name), position)
        assert (await verify(big)).is_sound
