"""Configurations of groups, client metrics and loggers: what is told, what survives a restart, what is listed."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest.mock import patch

import pytest
from kio.schema.errors import ErrorCode

from controller.config_rules import DELETE, SET
from hotlog.broker.broker import Broker
from tests.admin.node import Door, request, running
from tests.admin.test_configs import alter, describe, entry, step

BROKER, LOGGER, CLIENT_METRICS, GROUP = 4, 8, 16, 32
SESSION = "consumer.session.timeout.ms"


async def listed(broker: Broker, *kinds: int, version: int = 1) -> list[tuple[int, str]]:
    shapes = request(74, version)
    wanted = shapes.ListConfigResourcesRequest(resource_types=kinds)
    answer = await Door(broker).call(74, version, wanted)
    assert answer.error_code is ErrorCode.none
    return [(getattr(each, "resource_type", CLIENT_METRICS), each.resource_name) for each in answer.config_resources]


async def test_what_was_given_is_told_listed_and_survives(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks")
        assert (await step(broker, GROUP, "g", (SESSION, SET, " 50000 "))).error_code is ErrorCode.none
        assert (await alter(broker, CLIENT_METRICS, "m", {"metrics": "a, b"})).error_code is ErrorCode.none
        assert (await step(broker, GROUP, "tried", (SESSION, SET, "50000"), validate_only=True)).error_code is ErrorCode.none
    async with running(tmp_path) as broker:
        told = await entry(broker, GROUP, "g", SESSION)
        assert (told.value, told.config_source, told.read_only) == ("50000", 8, False)
        sources = [(each.name, each.value, each.source) for each in told.synonyms]
        assert sources == [(SESSION, "50000", 8), (f"group.{SESSION}", "45000", 5)]
        told = await entry(broker, CLIENT_METRICS, "m", "metrics")
        assert (told.value, told.config_source) == ("a,b", 7)
        assert await listed(broker) == [(GROUP, "g"), (CLIENT_METRICS, "m"), (LOGGER, "1"), (BROKER, "1"), (2, "clicks")]
        assert await listed(broker, GROUP) == [(GROUP, "g")]
        assert await listed(broker, version=0) == [(CLIENT_METRICS, "m")]
        assert (await step(broker, GROUP, "g", (SESSION, DELETE, None))).error_code is ErrorCode.none
        assert await listed(broker, GROUP) == []
        assert broker.image.group_configs == {}


async def test_a_key_of_the_broker_is_the_default_of_a_group_and_its_bounds_hold(tmp_path: Path) -> None:
    given = {"group.consumer.session.timeout.ms": "50000", "group.consumer.max.session.timeout.ms": "55000"}
    async with running(tmp_path, given) as broker:
        told = await entry(broker, GROUP, "g", SESSION)
        assert (told.value, told.config_source) == ("50000", 4)
        refused = await step(broker, GROUP, "g", (SESSION, SET, "55001"))
        assert refused.error_code is ErrorCode.invalid_config
        assert "group.consumer.max.session.timeout.ms" in refused.error_message


async def test_names_that_are_kept_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        with patch("controller.named_config_rules.NAMED_CONFIGS_MAX", 2):
            codes = [(await step(broker, GROUP, f"g{n}", (SESSION, SET, "50000"))).error_code for n in range(3)]
            assert codes == [ErrorCode.none, ErrorCode.none, ErrorCode.policy_violation]
            assert (await step(broker, GROUP, "g0", (SESSION, SET, "51000"))).error_code is ErrorCode.none
            assert (await step(broker, GROUP, "g2", (SESSION, DELETE, None))).error_code is ErrorCode.none
        refused = await step(broker, GROUP, "g" * 1025, (SESSION, SET, "50000"))
        assert refused.error_code is ErrorCode.invalid_config


async def test_an_unknown_kind_is_not_listed(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        wanted = request(74, 1).ListConfigResourcesRequest(resource_types=(GROUP, 99))
        answer = await Door(broker).call(74, 1, wanted)
        assert (answer.error_code, answer.config_resources) == (ErrorCode.unsupported_version, ())


async def test_a_level_is_changed_for_as_long_as_the_process_lives(tmp_path: Path) -> None:
    logger = logging.getLogger("hotlog.test.named")
    async with running(tmp_path) as broker:
        try:
            assert (await step(broker, LOGGER, "1", (logger.name, SET, "DEBUG"))).error_code is ErrorCode.none
            told = await entry(broker, LOGGER, "1", logger.name)
            assert (told.value, told.config_source, told.config_type, told.documentation) == ("DEBUG", 6, 0, None)
            assert broker.image.broker_configs == {}
            refused = await step(broker, LOGGER, "1", (logger.name, SET, "INFO"), ("no.such", SET, "INFO"))
            assert refused.error_code is ErrorCode.invalid_config
            assert logger.level == logging.DEBUG, "one that is refused changes nothing"
            assert (await step(broker, LOGGER, "1", (logger.name, DELETE, None))).error_code is ErrorCode.none
            assert logger.level == logging.NOTSET
        finally:
            logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("kind", [GROUP, CLIENT_METRICS])
async def test_a_name_is_needed(tmp_path: Path, kind: int) -> None:
    async with running(tmp_path) as broker:
        assert (await describe(broker, kind, "")).error_code is ErrorCode.invalid_request
        assert (await step(broker, kind, "")).error_code is ErrorCode.invalid_request
        assert (await alter(broker, kind, "", {})).error_code is ErrorCode.invalid_request
