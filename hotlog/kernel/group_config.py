"""Configurations of single groups, with Kafka's names, rules and defaults (org.apache.kafka.coordinator.group.GroupConfig).

Those of consumer groups (KIP-848) act; those of share and streams groups are kept and told, since Kafka's tools may set them.

Invariants: pure; what a group may be given lies within the broker's bounds, and what it was given counts within the bounds that hold now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hotlog.kernel.configdef import ConfigKey, Value, parse_all, table
from hotlog.kernel.errors import InvalidConfig
from hotlog.kernel.group_bounds import GROUP_BOUNDS
from hotlog.kernel.settings import Settings

_LATER = r"by_duration:P(?=.)(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?"

GROUP_KEYS = table([
    ConfigKey(name="consumer.session.timeout.ms", kind="int", default=45_000, minimum=1, unit="ms",
              synonym="group.consumer.session.timeout.ms", doc="A member that is not heard of for this long is gone."),
    ConfigKey(name="consumer.heartbeat.interval.ms", kind="int", default=5_000, minimum=1, unit="ms",
              synonym="group.consumer.heartbeat.interval.ms", doc="How often members are told to be heard of."),
    ConfigKey(name="consumer.assignment.interval.ms", kind="int", default=1_000, minimum=0, unit="ms",
              synonym="group.consumer.assignment.interval.ms", doc="Compute the group's assignment at most this often (KIP-1263)."),
    ConfigKey(name="share.session.timeout.ms", kind="int", default=45_000, minimum=1, unit="ms", acts=False,
              synonym="group.share.session.timeout.ms", doc="Of share groups: a member that is not heard of for this long is gone."),
    ConfigKey(name="share.heartbeat.interval.ms", kind="int", default=5_000, minimum=1, unit="ms", acts=False,
              synonym="group.share.heartbeat.interval.ms", doc="Of share groups: how often members are to be heard of."),
    ConfigKey(name="share.record.lock.duration.ms", kind="int", default=30_000, minimum=1_000, unit="ms", acts=False,
              synonym="group.share.record.lock.duration.ms", doc="Of share groups: how long a record is one consumer's."),
    ConfigKey(name="share.delivery.count.limit", kind="int", default=5, minimum=2, acts=False,
              synonym="group.share.delivery.count.limit", doc="Of share groups: how often a record is delivered."),
    ConfigKey(name="share.partition.max.record.locks", kind="int", default=2_000, minimum=100, acts=False,
              synonym="group.share.partition.max.record.locks", doc="Of share groups: records of a partition that are somebody's at once."),
    ConfigKey(name="share.assignment.interval.ms", kind="int", default=1_000, minimum=0, unit="ms", acts=False,
              synonym="group.share.assignment.interval.ms", doc="Of share groups: compute the assignment at most this often."),
    ConfigKey(name="share.auto.offset.reset", kind="string", default="latest", acts=False, pattern=rf"latest|earliest|{_LATER}",
              pattern_words="latest, earliest or by_duration:PnDTnHnMnS", doc="Of share groups: where a partition is begun."),
    ConfigKey(name="share.isolation.level", kind="string", default="read_uncommitted", acts=False,
              choices=("read_committed", "read_uncommitted"), doc="Of share groups: whether records of open transactions are delivered."),
    ConfigKey(name="share.renew.acknowledge.enable", kind="boolean", default=True, acts=False,
              doc="Of share groups: whether a consumer may keep a record for longer."),
    ConfigKey(name="streams.session.timeout.ms", kind="int", default=45_000, minimum=1, unit="ms", acts=False,
              synonym="group.streams.session.timeout.ms", doc="Of streams groups: a member that is not heard of for this long is gone."),
    ConfigKey(name="streams.heartbeat.interval.ms", kind="int", default=5_000, minimum=1, unit="ms", acts=False,
              synonym="group.streams.heartbeat.interval.ms", doc="Of streams groups: how often members are to be heard of."),
    ConfigKey(name="streams.num.standby.replicas", kind="int", default=0, minimum=0, acts=False,
              synonym="group.streams.num.standby.replicas", doc="Of streams groups: copies of a task that stand by."),
    ConfigKey(name="streams.initial.rebalance.delay.ms", kind="int", default=3_000, minimum=0, unit="ms", acts=False,
              synonym="group.streams.initial.rebalance.delay.ms", doc="Of streams groups: wait for more members before the first rebalance."),
    ConfigKey(name="streams.assignment.interval.ms", kind="int", default=1_000, minimum=0, unit="ms", acts=False,
              synonym="group.streams.assignment.interval.ms", doc="Of streams groups: compute the assignment at most this often."),
])  # fmt: skip
_BOUNDS: dict[str, tuple[str | None, str]] = {
    **{name: GROUP_BOUNDS[key.synonym] for name, key in GROUP_KEYS.items() if key.synonym in GROUP_BOUNDS},
    **{
        f"{kind}.{name}": (f"group.{kind}.min.{name}", f"group.{kind}.max.{name}")
        for kind, names in {
            "share": (
                "session.timeout.ms", "heartbeat.interval.ms", "record.lock.duration.ms", "delivery.count.limit", "partition.max.record.locks",
                "assignment.interval.ms",
            ),
            "streams": ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms"),
        }.items()
        for name in names
    },
    "streams.num.standby.replicas": (None, "group.streams.max.standby.replicas"),
}  # fmt: skip
_LONGER = [(f"{kind}.session.timeout.ms", f"{kind}.heartbeat.interval.ms") for kind in ("consumer", "share", "streams")]


class GroupTimes(NamedTuple):
    """What holds for one group of the new protocol, in ms."""

    session_ms: int
    heartbeat_ms: int
    assignment_interval_ms: int


def group_times(own: Mapping[str, str], settings: Settings) -> GroupTimes:
    """Of a group that was given `own`, each within the bounds of this broker; a value that cannot be read counts as not given."""

    def effective(name: str) -> int:
        broker_name = GROUP_KEYS[name].synonym
        try:
            value = GROUP_KEYS[name].parse(own[name])
        except (KeyError, InvalidConfig):
            return settings.number(broker_name)
        assert isinstance(value, int)
        least, most = GROUP_BOUNDS[broker_name]
        return min(max(value, settings.number(least)), settings.number(most))

    return GroupTimes(
        effective("consumer.session.timeout.ms"),
        effective("consumer.heartbeat.interval.ms"),
        effective("consumer.assignment.interval.ms"),
    )


def group_defaults(settings: Settings) -> dict[str, Value | None]:
    """What each key is worth on this broker for a group that does not set it."""
    return {name: settings.told(key.synonym) if key.synonym else key.default for name, key in GROUP_KEYS.items()}


def check_group(own: Mapping[str, str], settings: Settings) -> None:
    """That a group may be given `own`.

    Raises:
        InvalidConfig: an unknown key, a bad value, or one that is out of bounds.
    """
    values = {**group_defaults(settings), **parse_all(GROUP_KEYS, own)}
    for name, (least, most) in _BOUNDS.items():
        _check_bound(name, values[name], least, settings, is_least=True)
        _check_bound(name, values[name], most, settings, is_least=False)
    for session, heartbeat in _LONGER:
        if _whole(values[session]) <= _whole(values[heartbeat]):
            raise InvalidConfig(f"{session}={values[session]} must be above {heartbeat}={values[heartbeat]}")


def _check_bound(name: str, value: Value | None, bound: str | None, settings: Settings, *, is_least: bool) -> None:
    limit = settings.told(bound) if bound is not None else None
    if limit is None:
        return
    if _whole(value) < _whole(limit) if is_least else _whole(value) > _whole(limit):
        raise InvalidConfig(f"{name}={value} must not be {'below' if is_least else 'above'} {bound}={limit}")


def _whole(value: Value | None) -> int:
    assert isinstance(value, int), value
    return value
