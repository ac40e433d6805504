"""The price book: dated, sourced, overridable.  Shipped as prices.toml beside this file, whose head explains each key.

Invariants: a PriceBook that exists has every price the formulas ask for; an unknown key is an error, so that a typo in an override never
goes unnoticed; prices are not negative.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from importlib import resources
from typing import Any, TypeVar

from hotlog.kernel.errors import InvalidConfig

T = TypeVar("T")
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StorageClass:
    """An object storage class.  `storage` is graduated: (GB this step holds, $/GB-month); 0 GB holds the rest."""

    name: str
    storage: tuple[tuple[float, float], ...]
    put_1k: float
    get_1k: float
    retrieval_gb: float = 0.0
    write_gb: float = 0.0
    minimum_bytes: float = 0.0
    minimum_days: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DiskPrice:
    """A local or block disk: by GB, or as nodes that bring their disks (then no compute is added)."""

    name: str
    gb_month: float = 0.0
    throughput_free_mb_s: float = 0.0
    throughput_mb_s: float = 0.0
    node_hour: float = 0.0
    node_gb: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One provider and region."""

    name: str
    title: str
    date: date
    source: str
    gb_bytes: float
    default_class: str
    default_disk: str
    cross_zone_gb: float
    nat_gb: float
    vcpu_hour: float
    classes: Mapping[str, StorageClass]
    disks: Mapping[str, DiskPrice]
    instances: Mapping[str, float] = field(default_factory=dict)
    default_instance: str = ""
    recalled: tuple[str, ...] = ()

    def storage_class(self, name: str = "") -> StorageClass:
        """The class of that name, or the default one."""
        return _named(self.classes, name or self.default_class, f"storage class of {self.name}")

    def disk(self, name: str = "") -> DiskPrice:
        return _named(self.disks, name or self.default_disk, f"disk of {self.name}")

    def instance_hour(self, name: str = "") -> float:
        """$ per hour; 0 where no instance is named and the provider has no default."""
        if not name and not self.default_instance:
            return 0.0
        return _named(self.instances, name or self.default_instance, f"instance of {self.name}")


@dataclass(frozen=True)
class PriceBook:
    """All providers."""

    default: str
    providers: Mapping[str, Provider]

    def provider(self, name: str = "") -> Provider:
        return _named(self.providers, name or self.default, "provider")


def load_book(override: str | None = None) -> PriceBook:
    """The shipped book, with the TOML text `override` laid over it.

    Raises:
        InvalidConfig: a key or value that the book does not know.
    """
    tree = tomllib.loads(resources.files("tiering.cost").joinpath("prices.toml").read_text("utf-8"))
    if override is not None:
        try:
            tree = _merged(tree, tomllib.loads(override))
        except tomllib.TOMLDecodeError as wrong:
            raise InvalidConfig(f"price book: not TOML: {wrong}") from wrong
    return _book(tree)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def _book(tree: Mapping[str, Any]) -> PriceBook:
    if tree.get("version") != VERSION:
        raise InvalidConfig(f"price book: version {tree.get('version')!r}; {VERSION} is read")
    unknown = set(tree) - {"version", "default", "providers"}
    if unknown:
        raise InvalidConfig(f"price book: unknown key {sorted(unknown)[0]!r}; version, default and providers are allowed")
    providers = {name: _provider(name, raw) for name, raw in tree.get("providers", {}).items()}
    book = PriceBook(str(tree.get("default", "")), providers)
    book.provider()
    return book


def _provider(name: str, raw: Mapping[str, Any]) -> Provider:
    where = f"providers.{name}"
    given = dict(raw)
    classes = {key: _class(f"{where}.classes.{key}", key, value) for key, value in given.pop("classes", {}).items()}
    disks = {
        key: _record(DiskPrice, f"{where}.disks.{key}", {"name": key, **value}) for key, value in given.pop("disks", {}).items()
    }
    instances = {key: _price(f"{where}.instances.{key}", value) for key, value in given.pop("instances", {}).items()}
    given["recalled"] = tuple(given.get("recalled", ()))
    provider: Provider = _record(
        Provider, where, {"name": name, "classes": classes, "disks": disks, "instances": instances, **given}
    )
    provider.storage_class()
    provider.disk()
    provider.instance_hour()
    if provider.gb_bytes <= 0:
        raise InvalidConfig(f"price book: {where}.gb_bytes is {provider.gb_bytes}; 1000000000 or 1073741824 is usual")
    return provider


def _class(where: str, name: str, raw: Mapping[str, Any]) -> StorageClass:
    steps = tuple((_price(f"{where}.storage", size), _price(f"{where}.storage", price)) for size, price in raw.get("storage", ()))
    if not steps or steps[-1][0] != 0 or any(size == 0 for size, _ in steps[:-1]):
        raise InvalidConfig(f"price book: {where}.storage is {steps}; [[GB, price], ..., [0, price]] is allowed")
    made: StorageClass = _record(StorageClass, where, {**raw, "name": name, "storage": steps})
    return made


def _record(kind: type[Any], where: str, raw: Mapping[str, Any]) -> Any:
    allowed = {each.name: each for each in fields(kind)}
    for key, value in raw.items():
        if key not in allowed:
            raise InvalidConfig(f"price book: unknown key {where}.{key}; allowed are {', '.join(sorted(allowed))}")
        if allowed[key].type == "float":
            _price(f"{where}.{key}", value)
    try:
        return kind(**raw)
    except TypeError as missing:
        raise InvalidConfig(f"price book: {where}: {missing}") from missing


def _price(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidConfig(f"price book: {where} is {value!r}; a number not below 0 is allowed")
    return float(value)


def _named(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        raise InvalidConfig(f"price book: no {what} is called {name!r}; there are {', '.join(sorted(table)) or 'none'}")
    return table[name]
