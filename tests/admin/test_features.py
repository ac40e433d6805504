"""Levels of features: finalized for all, told to clients, kept over restarts, and what is off is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from controller.features import SAFE_DOWNGRADE, UPGRADE
from hotlog.broker.broker import Broker
from tests.admin.node import Door, request, running

GROUPS, TRANSACTIONS = "group.version", "transaction.version"


async def update(broker: Broker, *wanted: tuple[str, int, int], version: int = 2, validate_only: bool = False) -> Any:
    shapes = request(57, version)
    updates = tuple(
        shapes.FeatureUpdateKey(feature=name, max_version_level=level, upgrade_type=kind, allow_downgrade=kind == SAFE_DOWNGRADE)
        for name, level, kind in wanted
    )
    asked = shapes.UpdateFeaturesRequest(feature_updates=updates, validate_only=validate_only)
    return await Door(broker).call(57, version, asked)


async def told(broker: Broker) -> tuple[dict[str, int], int]:
    """What ApiVersions says: levels above 0, and their epoch."""
    asked = request(18, 4).ApiVersionsRequest(client_software_name="test", client_software_version="1")
    answer = await Door(broker).call(18, 4, asked)
    return {one.name: one.max_version_level for one in answer.finalized_features}, answer.finalized_features_epoch


@pytest.mark.parametrize("version", range(3))
async def test_a_level_is_told_and_kept(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        assert await told(broker) == ({GROUPS: 1, TRANSACTIONS: 2}, 0)
        await update(broker, (TRANSACTIONS, 1, SAFE_DOWNGRADE), validate_only=True)
        assert await told(broker) == ({GROUPS: 1, TRANSACTIONS: 2}, 0)
        answer = await update(broker, (TRANSACTIONS, 1, UPGRADE), (GROUPS, 1, UPGRADE), version=version)
        assert answer.error_code is ErrorCode.invalid_update_version
        answer = await update(broker, (TRANSACTIONS, 1, SAFE_DOWNGRADE))
        assert answer.error_code is ErrorCode.none
        levels, lowered = await told(broker)
        assert levels == {GROUPS: 1, TRANSACTIONS: 1} and lowered > 0
        assert broker.transactions._now().version.level == 1
    async with running(tmp_path) as broker:
        assert await told(broker) == ({GROUPS: 1, TRANSACTIONS: 1}, lowered)
        assert (await update(broker, (TRANSACTIONS, 2, UPGRADE), version=version)).error_code is ErrorCode.none
        levels, raised = await told(broker)
        assert levels == {GROUPS: 1, TRANSACTIONS: 2} and raised > lowered


async def test_groups_of_the_new_protocol_are_off_at_level_0(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await update(broker, (GROUPS, 0, SAFE_DOWNGRADE))
        assert (await told(broker))[0] == {TRANSACTIONS: 2}
        beat = request(68, 1).ConsumerGroupHeartbeatRequest(
            group_id="g", member_id="m", member_epoch=0, topic_partitions=(), subscribed_topic_names=("t",)
        )
        assert (await Door(broker).call(68, 1, beat)).error_code is ErrorCode.unsupported_version
        asked = request(69, 1).ConsumerGroupDescribeRequest(group_ids=("g",), include_authorized_operations=False)
        assert (await Door(broker).call(69, 1, asked)).groups[0].error_code is ErrorCode.unsupported_version
