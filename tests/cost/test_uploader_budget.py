"""The real uploader spends the requests that the forecast says, and a long history costs no more a segment than a short one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlog.kernel.metrics import Metrics
from tests.tiering.support import Node, fill, node
from tiering.cost import formulas as f


def class_a(metrics: Metrics) -> float:
    """Class A requests so far, of every purpose."""
    samples = metrics.store_requests.collect()[0].samples
    return sum(each.value for each in samples if each.name.endswith("_total") and each.labels["kind"] in f.CLASS_A)


async def grow(world: Node, batches: int, start: int) -> tuple[int, float]:
    """(objects, class A requests) that `batches` more batches cost."""
    log = world.logs.get(next(iter(world.logs.all())).tp)
    assert log is not None
    before, spent = len(await segments(world)), class_a(world.metrics)
    await fill(log, batches, start=start)
    await world.copy_all()
    return len(await segments(world)) - before, class_a(world.metrics) - spent


async def segments(world: Node) -> list[str]:
    return [key for key in await world.objects() if key.endswith(".seg")]


async def test_requests_per_segment_are_as_forecast(tmp_path: Path) -> None:
    async with node(tmp_path) as world:
        await world.attach(await world.create())
        objects, requests = await grow(world, 60, 0)
        assert objects >= 15
        sizes = [info.size async for info in world.store.list("") if info.key.endswith(".seg")]
        forecast = f.upload_requests(
            sum(sizes), object_bytes=sum(sizes) / objects, single_put_bytes_max=2**26, part_bytes=2**26, commits_per_object=1.0
        )
        listings = 2  # of this test
        claim = 2  # once per partition and leader epoch: the manifest is made, then claimed
        assert forecast == pytest.approx(2 * objects)
        assert forecast <= requests <= forecast + claim + listings
        more, requests = await grow(world, 60, 60)
        assert requests <= 2 * more + listings, "no claim the second time"
