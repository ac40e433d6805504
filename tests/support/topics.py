"""Changes to topics, as clients make them."""

from __future__ import annotations

from collections.abc import Mapping

from controller.changes import AlterConfigs, TopicConfigs
from hotlog.broker.broker import Broker


async def alter_configs(broker: Broker, name: str, configs: Mapping[str, str | None]) -> None:
    """Replace a topic's own settings (AlterConfigs).  Raises why it is refused."""
    await broker.submit_one(AlterConfigs(topics=(TopicConfigs(name, configs),)))
