"""Configurations as clients see them: value, where it comes from, what it would otherwise be (KIP-226, KIP-524).

Invariants: pure over image and settings, but for the levels of this process's loggers; a password is never told, nor the value of a key that nobody knows; the entries of a resource
are sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import dropwhile
from typing import TYPE_CHECKING, NamedTuple

from controller.image import ALL_BROKERS, ClusterImage, TopicImage
from hotlog.kernel.client_metrics_config import CLIENT_METRICS_KEYS
from hotlog.kernel.configdef import KIND_CODES, KIND_UNKNOWN, ConfigKey
from hotlog.kernel.errors import InvalidConfig
from hotlog.kernel.group_config import GROUP_KEYS
from hotlog.kernel.settings import BROKER_KEYS, KEY_FAMILIES, Settings, broker_key
from hotlog.kernel.topic_config import TOPIC_KEYS
from hotlog.observe import loggers

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

# DescribeConfigsResponse.ConfigSource
DYNAMIC_TOPIC, DYNAMIC_BROKER, DYNAMIC_DEFAULT_BROKER, STATIC_BROKER, DEFAULT = 1, 2, 3, 4, 5
DYNAMIC_LOGGER, CLIENT_METRICS, GROUP = 6, 7, 8


class Synonym(NamedTuple):
    """One place a value may come from."""

    name: str
    value: str | None
    source: int


class Entry(NamedTuple):
    """One configuration of a resource."""

    name: str
    value: str | None
    source: int
    is_read_only: bool
    is_sensitive: bool
    synonyms: tuple[Synonym, ...]
    kind: int
    doc: str | None


def topic_entries(broker: Broker, topic: TopicImage) -> list[Entry]:
    """Every key of a topic."""
    config = broker.config_of(topic)
    entries = []
    for name, key in sorted(TOPIC_KEYS.items()):
        chain = _broker_chain(broker, key.synonym) if key.synonym else []
        if name in topic.configs:
            chain.insert(0, Synonym(name, topic.configs[name], DYNAMIC_TOPIC))
        effective = key.text(config.values.get(name))
        if chain and _differs(key, chain[0].value, effective):  # a rule of the house decided, not a setting
            chain.insert(0, Synonym(name, effective, DEFAULT))
        entries.append(_entry(name, key, chain)._replace(value=effective))
    return entries


def broker_entries(broker: Broker, node_id: int) -> list[Entry]:
    """Every key of this broker that acts, and whatever else it was given; only what is set for all brokers if `node_id` is ALL_BROKERS."""
    if node_id == ALL_BROKERS:
        own = broker.image.broker_configs.get(ALL_BROKERS, {})
        return [
            _entry(name, broker_key(name), [Synonym(name, text, DYNAMIC_DEFAULT_BROKER)]) for name, text in sorted(own.items())
        ]
    given = [configs for node, configs in broker.image.broker_configs.items() if node in (node_id, ALL_BROKERS)]
    names = set(BROKER_KEYS).union(broker.static_settings.others, *given, *KEY_FAMILIES.values())
    return [_entry(name, broker_key(name), _broker_chain(broker, name)) for name in sorted(names)]


def group_entries(broker: Broker, group_id: str) -> list[Entry]:
    """Every key of a group, which need not be there."""
    own = broker.image.group_configs.get(group_id, {})
    entries = []
    for name, key in sorted(GROUP_KEYS.items()):
        chain = _broker_chain(broker, key.synonym) if key.synonym else [Synonym(name, key.text(key.default), DEFAULT)]
        if name in own:
            chain.insert(0, Synonym(name, _understood(key, own[name]), GROUP))
        entries.append(_entry(name, key, chain))
    return entries


def client_metrics_entries(broker: Broker, subscription: str) -> list[Entry]:
    """Every key of a subscription of client metrics, which need not be there.  As in Kafka a default is told as a value and as no synonym."""
    own = broker.image.client_metrics_configs.get(subscription, {})
    entries = []
    for name, key in sorted(CLIENT_METRICS_KEYS.items()):
        chain = [Synonym(name, _understood(key, own[name]), CLIENT_METRICS)] if name in own else []
        entries.append(_entry(name, key, chain)._replace(value=chain[0].value if chain else key.text(key.default)))
    return entries


def logger_entries() -> list[Entry]:
    """The level of every logger of this broker.  As in Kafka neither their type nor any words."""
    return [
        Entry(name, level, DYNAMIC_LOGGER, is_read_only=False, is_sensitive=False, synonyms=(), kind=KIND_UNKNOWN, doc=None)
        for name, level in sorted(loggers.levels().items())
    ]


def _broker_chain(broker: Broker, name: str) -> list[Synonym]:
    """Where this broker's `name` comes from, the one that counts first."""
    return broker_chain(broker.image, broker.node_id, broker.static_settings, name)


def broker_chain(image: ClusterImage, node_id: int, static: Settings, name: str) -> list[Synonym]:
    """The same over values.

    As Kafka has it (ConfigHelper.configSynonyms): by source, in each of them all names that may give the value, from `name` itself on.
    """
    family = KEY_FAMILIES.get(name, (name,))
    sources: list[tuple[Mapping[str, str], int]] = [
        (image.broker_configs.get(node_id, {}), DYNAMIC_BROKER),
        (image.broker_configs.get(ALL_BROKERS, {}), DYNAMIC_DEFAULT_BROKER),
        ({**static.others, **static.given}, STATIC_BROKER),
        (_defaults(family), DEFAULT),
    ]
    chain = [Synonym(one, given[one], source) for given, source in sources for one in family if one in given]
    return list(dropwhile(lambda synonym: synonym.name != name, chain))


def _defaults(names: Sequence[str]) -> dict[str, str]:
    keys = [key for key in map(broker_key, names) if key is not None and not key.is_open]
    return {key.name: text for key in keys if (text := key.text(key.default)) is not None}


def _understood(key: ConfigKey, text: str) -> str | None:
    """A value as it is understood; as it was given where another release took it."""
    try:
        return key.text(key.parse(text))
    except InvalidConfig:
        return text


def _differs(key: ConfigKey, one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is not other
    return key.parse(one) != key.parse(other)


def _entry(name: str, key: ConfigKey | None, chain: list[Synonym]) -> Entry:
    """As the first of `chain` has it.  A key that nobody knows may be a secret (Kafka hides it too)."""
    is_sensitive = key is None or key.kind == "password"
    hidden = [synonym._replace(value=None) for synonym in chain] if is_sensitive else chain
    return Entry(
        name=name,
        value=hidden[0].value if hidden else None,
        source=hidden[0].source if hidden else DEFAULT,
        is_read_only=key is None or not key.dynamic,
        is_sensitive=is_sensitive,
        synonyms=tuple(hidden),
        kind=KIND_CODES[key.kind] if key is not None else KIND_UNKNOWN,
        doc=key.doc + (f" [{key.unit}]" if key.unit else "") if key is not None else "",
    )
