"""The table of workers, and the node that it is a part of: nothing is missing once it is open."""

from __future__ import annotations

from dataclasses import fields

import pytest

from hotlog.kernel.settings import Settings
from hotlog.workers import WORKERS, set_by
from tests.sim.world import SimWorld, simulate

NO_TIER = {"remote.log.storage.system.enable": "false"}


@pytest.mark.parametrize("settings", [{}, NO_TIER])
def test_every_part_is_there_and_every_worker_has_its_beat(settings: dict[str, str]) -> None:
    async def main(world: SimWorld) -> None:
        node = (await world.boot()).node
        assert [field.name for field in fields(node.parts) if getattr(node.parts, field.name) is None] == []
        assert [beat.name for beat in node.beats] == [worker.name for worker in WORKERS]
        assert len({beat.name for beat in node.beats}) == len(WORKERS)
        assert all(beat.interval_s > 0 for beat in node.beats)

    simulate(1, main, settings=settings)


def test_without_a_cold_tier_its_workers_have_nothing_to_do() -> None:
    async def main(world: SimWorld) -> None:
        life = await world.boot()
        await life.broker.create_topic("clicks", 1)
        for beat in life.node.beats:
            if beat.name in ("copy", "reaper", "reconcile"):
                assert not await beat.tick()
        assert not world.manifests()

    simulate(1, main, settings=NO_TIER)


@pytest.mark.parametrize(
    ("interval_ms", "seconds_max", "due_s"), [("2500", 10.0, 2.5), ("86400000", 10.0, 10.0), ("-1", 10.0, 10.0)]
)
def test_a_worker_is_as_often_due_as_its_setting_says(interval_ms: str, seconds_max: float, due_s: float) -> None:
    settings = Settings.resolve({"hotlog.scrub.interval.ms": interval_ms})
    assert set_by("hotlog.scrub.interval.ms", seconds_max=seconds_max)(settings) == due_s
