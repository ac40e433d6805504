"""What may be done to configurations, of topics and of brokers: requests against an image, answered with records or Kafka's refusals.

Rules: org.apache.kafka.controller.ConfigurationControlManager (behaviour, not code), KIP-339 for incremental changes.

Invariants: pure; a refusal names the key, its value and what is allowed; what a topic or broker said before is not the fault of who changes
something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from controller.image import ALL_BROKERS, ClusterImage, TopicImage
from controller.internal_topics import GROUPS_TOPIC
from controller.records import BrokerConfigsChanged, Record, TopicConfigsChanged
from hotlog.kernel.configdef import ConfigKey
from hotlog.kernel.errors import InvalidConfig
from hotlog.kernel.kafka_keys import KAFKA_KEYS
from hotlog.kernel.settings import BROKER_KEYS, Settings, broker_key
from hotlog.kernel.topic_config import TOPIC_KEYS, TopicConfig, check_change
from hotlog.wire.error_codes import Refused

CONFIG_CHARS_MAX = 1024
_PROTECTING = ("listener", "sasl.", "ssl.")  # with these in force a client would be asked who it is

SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3  # IncrementalAlterConfigs operations (KIP-339)


class ConfigChange(NamedTuple):
    """One step of an incremental change."""

    name: str
    operation: int
    value: str | None


class Scope(NamedTuple):
    """What rules are applied against, besides the image: the settings, the id and the wall clock of the active controller."""

    settings: Settings
    node_id: int  # new partitions are placed there
    now_ms: int  # for people


def topic_config(configs: Mapping[str, str | None], settings: Settings) -> TopicConfig:
    """Own `configs` over the broker's defaults.

    Raises:
        InvalidConfig
    """
    check_sizes(configs)
    return TopicConfig.resolve(configs, settings.topic_defaults(), is_tiering=settings.flag("remote.log.storage.system.enable"))


def check_tiering(wanted: Mapping[str, str | None], before: Mapping[str, str], settings: Settings) -> None:
    """Nobody may switch on what this broker has not got; what a topic said before is not the fault of who changes something else."""
    key = "remote.storage.enable"
    is_asked = str(wanted.get(key)).strip().lower() == "true" and wanted.get(key) != before.get(key)
    if is_asked and not settings.flag("remote.log.storage.system.enable"):
        raise InvalidConfig(f"{key}=true is refused while remote.log.storage.system.enable=false on this broker")


def check_sizes(configs: Mapping[str, str | None]) -> None:
    """Values are kept as they were given, in an object of bounded size.

    Raises:
        InvalidConfig: one is too long.
    """
    for name, text in configs.items():
        if text is not None and len(text) > CONFIG_CHARS_MAX:
            raise InvalidConfig(f"{name[:100]} has a value of {len(text)} characters; at most {CONFIG_CHARS_MAX} are allowed")


def plan_topic_configs(topic: TopicImage, wanted: Mapping[str, str | None], scope: Scope) -> Record | None:
    """The record that makes `wanted` the topic's own settings, or None if they are already.

    Raises:
        InvalidConfig
    """
    wanted = given_values(wanted)
    check_tiering(wanted, topic.configs, scope.settings)
    before, after = topic_config(topic.configs, scope.settings), topic_config(wanted, scope.settings)
    if before.remote_enabled and not after.remote_enabled and "remote.storage.enable" not in wanted:
        # Turned off only by who says so: what the store has of a topic that becomes compacted stays readable.
        after = topic_config({**wanted, "remote.storage.enable": "true"}, scope.settings)
    check_change(before, after)
    if topic.name == GROUPS_TOPIC and (not after.is_compacted or after.is_deleted or after.remote_enabled):
        raise InvalidConfig(f"topic {topic.name!r} must keep cleanup.policy=compact and remote.storage.enable=false")
    changes = difference(topic.configs, after.overrides)
    return TopicConfigsChanged(topic_id=topic.topic_id, configs=changes) if changes else None


def plan_broker_configs(image: ClusterImage, node_id: int, wanted: Mapping[str, str | None], scope: Scope) -> Record | None:
    """The record that makes `wanted` the dynamic settings of `node_id` (ALL_BROKERS: the cluster's default).

    As in Kafka a key that nobody knows is kept and told, and a value or a key that cannot be is INVALID_REQUEST.  None of those that act
    names code to load; those that would in Kafka, or would protect something, are refused.

    Raises:
        InvalidConfig: something is too long.  Refused
    """
    if node_id != ALL_BROKERS and node_id not in image.brokers:
        raise Refused(ErrorCode.invalid_request, f"broker {node_id} is not registered; registered are {sorted(image.brokers)}")
    check_sizes(wanted)
    own = given_values(wanted)
    try:
        for name, text in own.items():
            _check_broker_key(name, text)
        acting = {name: text for name, text in own.items() if name in BROKER_KEYS}
        Settings.resolve({**scope.settings.given, **acting})  # relations hold as well
    except InvalidConfig as wrong:
        raise Refused(ErrorCode.invalid_request, str(wrong)) from None
    changes = difference(image.broker_configs.get(node_id, {}), own)
    return BrokerConfigsChanged(node_id=node_id, configs=changes) if changes else None


def step_topic_configs(topic: TopicImage, steps: Sequence[ConfigChange], scope: Scope) -> Record | None:
    """The record that changes some own settings of a topic.

    Raises:
        InvalidConfig, Refused
    """
    config = topic_config(topic.configs, scope.settings)
    effective = {key: TOPIC_KEYS[key].text(value) for key, value in config.values.items()}
    return plan_topic_configs(topic, stepped(topic.configs, effective, steps, TOPIC_KEYS), scope)


def step_broker_configs(image: ClusterImage, node_id: int, steps: Sequence[ConfigChange], scope: Scope) -> Record | None:
    """The record that changes some dynamic settings of a broker, or of all.

    Raises:
        InvalidConfig, Refused
    """
    effective = {key: BROKER_KEYS[key].text(value) for key, value in scope.settings.values.items()}
    own = image.broker_configs.get(node_id, {})
    return plan_broker_configs(image, node_id, stepped(own, effective, steps, {**KAFKA_KEYS, **BROKER_KEYS}), scope)


def _check_broker_key(name: str, text: str) -> None:
    key = broker_key(name)
    if name.startswith(_PROTECTING) or (key is not None and key.kind in ("class", "password")) or name == "metric.reporters":
        if text.strip():
            raise InvalidConfig(f"{name} does nothing on this broker, and to accept it would say that it does")
    elif key is not None:
        if not key.dynamic:
            raise InvalidConfig(f"{name} cannot be changed while the broker runs: set it in its file and restart")
        key.parse(text)


def given_values(wanted: Mapping[str, str | None]) -> dict[str, str]:
    """The values of a change; null is none (Kafka's ConfigurationControlManager).

    Raises:
        Refused: one is null.
    """
    empty = sorted(name for name, text in wanted.items() if text is None)
    if empty:
        raise Refused(ErrorCode.invalid_request, f"null is no value for {', '.join(empty)}")
    return {name: text for name, text in wanted.items() if text is not None}


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """What makes settings those of `after`; None takes one away."""
    changes: dict[str, str | None] = {name: None for name in before if name not in after}
    changes.update({name: text for name, text in after.items() if before.get(name) != text})
    return dict(sorted(changes.items()))


def stepped(
    own: Mapping[str, str], effective: Mapping[str, str | None], changes: Sequence[ConfigChange], keys: Mapping[str, ConfigKey]
) -> dict[str, str | None]:
    """Own settings after incremental `changes` (KIP-339); `effective` is what APPEND and SUBTRACT begin from.

    Raises:
        InvalidConfig, Refused
    """
    result: dict[str, str | None] = dict(own)
    seen: set[str] = set()
    for change in changes:
        if change.name in seen:
            raise Refused(ErrorCode.invalid_request, f"configuration {change.name!r} is changed twice in one request")
        seen.add(change.name)
        if change.operation == DELETE:
            result.pop(change.name, None)  # what nobody knows is gone already
        elif change.operation == SET:
            result[change.name] = change.value
        else:
            result[change.name] = _listed(change, result.get(change.name, effective.get(change.name)), keys)
    return result


def _listed(change: ConfigChange, current: str | None, keys: Mapping[str, ConfigKey]) -> str:
    if change.operation not in (APPEND, SUBTRACT):
        raise Refused(ErrorCode.invalid_request, f"operation {change.operation} on {change.name}; 0 to 3 are known")
    key = keys.get(change.name)
    if key is None:
        raise InvalidConfig(f"unknown configuration {change.name!r}")
    if key.kind != "list":
        raise InvalidConfig(f"{change.name} is not a list: only SET and DELETE are allowed")
    now = [part.strip() for part in (current or "").split(",") if part.strip()]
    given = [part.strip() for part in (change.value or "").split(",") if part.strip()]
    if change.operation == APPEND:
        return ",".join([*now, *(part for part in given if part not in now)])
    return ",".join(part for part in now if part not in given)


class DynamicSettings:
    """The settings of one broker: what its file says, and over it what the metadata says.

    What the metadata say was allowed when it was said, by another release or beside another file.  A value that cannot hold any more counts as not
    said (`refused` has it, with the reason): a broker that did not start for it could not be told another one.
    """

    def __init__(self, static: Settings, node_id: int) -> None:
        self.refused: Mapping[str, str] = {}
        self._static = static
        self._node_id = node_id
        self._newest = static
        self._said: Mapping[str, str] = {}  # what `_newest` is made of

    def at(self, image: ClusterImage) -> Settings:
        """Those that hold with `image`; the same object as long as nothing of them has changed."""
        dynamic = image.broker_configs
        own = {**dynamic.get(ALL_BROKERS, {}), **dynamic.get(self._node_id, {})}
        own = {name: text for name, text in own.items() if name in BROKER_KEYS}  # others are only told
        if own != self._said:
            self._said, (self._newest, self.refused) = own, _over(self._static, own)
        return self._newest


def _over(static: Settings, own: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """`own` over the `static` ones, and why of those that cannot hold; each is judged with those before it, by name."""
    try:
        return Settings.resolve({**static.given, **own}), {}
    except InvalidConfig:
        newest, refused = static, {}
    for name, text in sorted(own.items()):
        try:
            newest = Settings.resolve({**newest.given, name: text})
        except InvalidConfig as wrong:
            refused[name] = str(wrong)
    return newest, refused
