"""Configurations as clients see them: value, where it comes from, what it would otherwise be (KIP-226, KIP-524).

Invariants: pure over image and settings; a password is never told; the entries of a resource are every key there is, sorted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from controller.image import ALL_BROKERS, ClusterImage, TopicImage
from hotlog.kernel.configdef import KIND_CODES, ConfigKey
from hotlog.kernel.settings import BROKER_KEYS, Settings
from hotlog.kernel.topic_config import TOPIC_KEYS

if TYPE_CHECKING:
    from hotlog.apis.broker import Broker

# DescribeConfigsResponse.ConfigSource
DYNAMIC_TOPIC, DYNAMIC_BROKER, DYNAMIC_DEFAULT_BROKER, STATIC_BROKER, DEFAULT = 1, 2, 3, 4, 5


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
    doc: str


def topic_entries(broker: Broker, topic: TopicImage) -> list[Entry]:
    """Every key of a topic."""
    config = broker.config_of(topic)
    entries = []
    for name, key in sorted(TOPIC_KEYS.items()):
        chain = _broker_chain(broker, key.synonym) if key.synonym else []
        if name in topic.configs:
            chain.insert(0, Synonym(name, topic.configs[name], DYNAMIC_TOPIC))
        effective = key.text(config.values.get(name))
        if not chain or _differs(key, chain[0].value, effective):  # a rule of the house decided, not a setting
            chain.insert(0, Synonym(name, effective, DEFAULT))
        entries.append(_entry(key, chain))
    return entries


def broker_entries(broker: Broker, node_id: int) -> list[Entry]:
    """Every key of this broker; only what is set for all brokers if `node_id` is ALL_BROKERS."""
    if node_id == ALL_BROKERS:
        own = broker.image.broker_configs.get(ALL_BROKERS, {})
        return [
            _entry(BROKER_KEYS[name], [Synonym(name, text, DYNAMIC_DEFAULT_BROKER)])
            for name, text in sorted(own.items())
            if name in BROKER_KEYS
        ]
    return [_entry(key, _broker_chain(broker, name)) for name, key in sorted(BROKER_KEYS.items())]


def _broker_chain(broker: Broker, name: str) -> list[Synonym]:
    """Where this broker's `name` comes from, the one that counts first."""
    return broker_chain(broker.image, broker.node_id, broker.static_settings, name)


def broker_chain(image: ClusterImage, node_id: int, static: Settings, name: str) -> list[Synonym]:
    """The same over values."""
    sources: list[tuple[Mapping[str, str], int]] = [
        (image.broker_configs.get(node_id, {}), DYNAMIC_BROKER),
        (image.broker_configs.get(ALL_BROKERS, {}), DYNAMIC_DEFAULT_BROKER),
    ]
    chain = [Synonym(name, given[name], source) for given, source in sources if name in given]
    key = BROKER_KEYS[name]
    value = key.text(static.values.get(name))
    default = key.text(key.default)
    if name in static.given or _differs(key, value, default):
        chain.append(Synonym(name, value, STATIC_BROKER))
    chain.append(Synonym(name, default, DEFAULT))
    return chain


def _differs(key: ConfigKey, one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is not other
    return key.parse(one) != key.parse(other)


def _entry(key: ConfigKey, chain: list[Synonym]) -> Entry:
    is_sensitive = key.kind == "password"
    hidden = [synonym._replace(value=None) for synonym in chain] if is_sensitive else chain
    first = hidden[0]
    return Entry(
        name=key.name,
        value=first.value,
        source=first.source,
        is_read_only=not key.dynamic,
        is_sensitive=is_sensitive,
        synonyms=tuple(hidden),
        kind=KIND_CODES[key.kind],
        doc=key.doc + (f" [{key.unit}]" if key.unit else ""),
    )
