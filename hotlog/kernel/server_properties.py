"""What a Kafka server.properties means to Hotlog: settings, addresses, folder and store; what must not be ignored is refused.

Most of Kafka's keys may be given and do nothing here; they are named in one line.  Those are refused whose silence would open a door that
was closed, keep data in the clear that was to be encrypted, or put data elsewhere; and those that somebody meant to be another key.

Invariants: pure; a refusal says what to do, and never repeats a value that may be a secret; what is understood is told with the key that said it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hotlog.kernel.addresses import Endpoint, parse_listeners
from hotlog.kernel.aiven import store_of_plugin
from hotlog.kernel.errors import InvalidConfig
from hotlog.kernel.kafka_keys import KAFKA_KEYS
from hotlog.kernel.settings import BROKER_KEYS, KEY_FAMILIES, Settings, broker_key
from hotlog.kernel.topic_config import TOPIC_KEYS

NEAR, NEAR_AT_LEAST = 0.9, 0.6
_ROOF = (
    "listeners",
    "controller.listener.names",
    "listener.security.protocol.map",
    "log.dirs",
    "log.dir",
    "broker.id",
    "process.roles",
)

_EVERYBODY = "this broker lets everybody do everything yet; keep its port from others, and take the key out"
_PLAIN = "no listener here speaks TLS or asks who a client is; have a proxy do that before the port, and take the key out"
_DOORS: dict[str, str] = {
    "authorizer.class.name": _EVERYBODY,
    "super.users": _EVERYBODY,
    "allow.everyone.if.no.acl.found": _EVERYBODY,
    "principal.builder.class": _EVERYBODY,
    "create.topic.policy.class.name": "no policy is asked here before a topic is made; take the key out",
    "alter.config.policy.class.name": "no policy is asked here before a configuration changes; take the key out",
    "client.quota.callback.class": "no quotas are kept here; take the key out",
    "max.connections.per.ip.overrides": "addresses cannot be told apart here; set max.connections.per.ip",
    "config.providers": "values are taken as they are written; write them out, secrets are not needed here",
    "security.inter.broker.protocol": _PLAIN,
    "security.providers": _PLAIN,
    "delegation.token.secret.key": _PLAIN,
    "delegation.token.master.key": _PLAIN,
    "connections.max.reauth.ms": _PLAIN,
}
_DOOR_ROOMS = ("ssl.", "sasl.", "listener.name.", "password.encoder.")
_NO_DOOR = {"security.inter.broker.protocol": "PLAINTEXT", "ssl.client.auth": "none"}


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What a configuration asks for; None, or no listeners, where it does not say.  `said_by`: which of its keys says where data and listener are.

    `without_effect` are the given keys that change nothing here.
    """

    settings: Settings
    listeners: tuple[Endpoint, ...]
    data_dir: str | None
    store_url: str | None
    said_by: Mapping[str, str]
    without_effect: tuple[str, ...]


def understood(given: Mapping[str, str], *, has_store: bool = False) -> Understood:
    """Read key and value pairs, those of a file and others alike.

    Args:
        has_store: the store is given elsewhere, so that what a plugin's keys say about it does not count.
    Raises:
        InvalidConfig: naming all keys that are refused, each with what to do; Invalid: no usable listener.
    """
    problems = [f"{name}: {problem}" for name in given for problem in _problem(name, given[name])]
    if problems:
        raise InvalidConfig("; ".join(problems))
    store = store_of_plugin(given, has_store=has_store)
    data_dir, folder_key = _folder(given)
    ours = {name: text for name, text in given.items() if name not in store.keys_read}
    if "broker.id" in given:
        ours.setdefault("node.id", given["broker.id"])
        if ours["node.id"].strip() != given["broker.id"].strip():
            raise InvalidConfig(f"broker.id={given['broker.id']} and node.id={given['node.id']} are one thing: give one")
    settings = Settings.resolve(ours)
    said_by = {"data dir": folder_key, "store": store.said_by, "listen": "listeners"}
    return Understood(
        settings=settings,
        listeners=tuple(parse_listeners(given)),
        data_dir=data_dir,
        store_url=store.url,
        said_by=said_by,
        without_effect=tuple(sorted({*settings.ignored, *store.without_effect} - set(_ROOF))),
    )


def _problem(name: str, text: str) -> list[str]:
    """Why `name` must not be ignored; none if it may, or is acted on."""
    for check in _CHECKS:
        if problem := check(name, text.strip()):
            return [problem]
    return []


def _unknown(name: str, _: str) -> str:
    if broker_key(name) is not None or name in _ROOF or name in _DOORS or name.startswith(_DOOR_ROOMS):
        return ""
    near = nearest(name)
    if name.startswith("hotlog."):
        return "there is no such key" + (f"; {near} is meant?" if near else "")
    return f"there is no such key; {near} is meant?" if near else ""


def _opens_a_door(name: str, text: str) -> str:
    key = broker_key(name)
    if not text or _NO_DOOR.get(name) == text or (key is not None and key.default is not None and text == key.text(key.default)):
        return ""
    return _DOORS.get(name) or (_PLAIN if name.startswith(_DOOR_ROOMS) else "")


def _moves_data(name: str, text: str) -> str:
    if name in ("log.dirs", "log.dir") and "," in text:
        return "one folder holds everything here: give one (join disks below it, by LVM or RAID), or run a broker on each"
    if name == "process.roles" and text and "broker" not in [role.strip() for role in text.split(",")]:
        return "this file is a controller's; every Hotlog broker has its part of that: give a broker's file"
    return ""


_CHECKS: tuple[Callable[[str, str], str], ...] = (_opens_a_door, _moves_data, _unknown)


def nearest(name: str) -> str:
    """The key that was meant by one that does not exist, or "": another spelling, a topic's key for the broker's, two letters exchanged."""
    plain = name.strip().lower().replace("_", ".").replace("-", ".")
    topic_key = TOPIC_KEYS.get(plain)
    if topic_key is not None and topic_key.synonym:
        return topic_key.synonym
    known = list(_known())
    exchanged = [other for other in known if len(other) == len(plain) and sorted(other) == sorted(plain)]
    cutoff = NEAR_AT_LEAST if plain.startswith("hotlog.") else NEAR
    candidates = [other for other in known if other.startswith("hotlog.")] if plain.startswith("hotlog.") else known
    return next(iter([*exchanged, *difflib.get_close_matches(plain, candidates, 1, cutoff)]), "")


def _known() -> set[str]:
    return {*BROKER_KEYS, *KAFKA_KEYS, *KEY_FAMILIES, *_ROOF, *_DOORS}


def _folder(given: Mapping[str, str]) -> tuple[str | None, str]:
    """The folder that log.dirs, or else log.dir, names."""
    for name in ("log.dirs", "log.dir"):
        if text := given.get(name, "").strip():
            return text, name
    return None, ""


def told(settings: Settings, *, listeners: Sequence[Endpoint], data_dir: str) -> Settings:
    """Settings that also tell clients where data and listeners are, as Kafka's `log.dirs` and `listeners` do."""
    others = {**settings.others, "log.dirs": data_dir, "listeners": ",".join(map(str, listeners))}
    return replace(settings, others={name: text for name, text in others.items() if name != "log.dir"})
