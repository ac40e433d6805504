"""What the broker's settings, a group's own configuration and the image say to groups, as of now.

Invariants: values that come from settings alone are made once for each settings, not at every heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from controller.image import ClusterImage
from hotlog.coordinators.consumer.regexes import Regexes
from hotlog.coordinators.consumer.values import Rules
from hotlog.coordinators.group_shard import OffsetRules
from hotlog.coordinators.group_types import Limits
from hotlog.kernel.group_config import group_times
from hotlog.kernel.settings import Settings
from hotlog.world.ports import Clock


class CurrentRules:
    """Of all groups of a node."""

    def __init__(
        self, settings: Callable[[], Settings], image: Callable[[], ClusterImage], clock: Clock, regexes: Regexes
    ) -> None:
        self._settings = settings
        self._image = image
        self._clock = clock
        self._regexes = regexes
        self._limits_of: tuple[Settings, Limits] | None = None
        self._rules_of: tuple[Settings, Rules] | None = None

    def limits(self) -> Limits:
        """For classic groups."""
        settings = self._settings()
        if self._limits_of is None or self._limits_of[0] is not settings:
            limits = Limits(
                settings.number("group.min.session.timeout.ms"),
                settings.number("group.max.session.timeout.ms"),
                settings.number("group.initial.rebalance.delay.ms"),
                settings.number("group.max.size"),
                settings.number("hotlog.group.max.bytes"),
            )
            self._limits_of = (settings, limits)
        return self._limits_of[1]

    def of_group(self, group_id: str) -> Rules:
        """What holds for a group now: the broker's settings, and over them the group's own (KIP-848)."""
        image, rules = self._image(), self.of_broker()
        own = image.group_configs.get(group_id)
        if own is not None:
            rules = rules._replace(**group_times(own, self._settings())._asdict())
        return rules._replace(image=image, now_ms=self._clock.now_ms())

    def of_broker(self) -> Rules:
        """For groups of the new protocol that have no configuration of their own; time and image are those of when it was made."""
        settings = self._settings()
        if self._rules_of is None or self._rules_of[0] is not settings:
            policy = settings.text("group.consumer.migration.policy")
            rules = Rules(
                **group_times({}, settings)._asdict(),
                members_max=settings.number("group.consumer.max.size"),
                assignors=settings.words("group.consumer.assignors"),
                may_upgrade=policy in ("bidirectional", "upgrade"),
                may_downgrade=policy in ("bidirectional", "downgrade"),
                limits=self.limits(),
                image=self._image(),
                resolved=self._regexes.resolved,
                now_ms=0,
            )
            self._rules_of = (settings, rules)
        return self._rules_of[1]

    def offsets(self) -> OffsetRules:
        """For commits of offsets."""
        return OffsetRules(self._partitions_of, self._settings().number("offset.metadata.max.bytes"), self._topic_id_of)

    def _partitions_of(self, topic: str) -> int:
        known = self._image().topics.get(topic)
        return len(known.partitions) if known is not None else 0

    def _topic_id_of(self, topic: str) -> UUID | None:
        known = self._image().topics.get(topic)
        return known.topic_id if known is not None else None
