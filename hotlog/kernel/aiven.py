"""The keys of Kafka's remote storage plugin, and of Aiven's in particular, as a store URL.

Source: docs/configs.rst of Aiven-Open/tiered-storage-for-apache-kafka; KIP-405 for the prefix.

Invariants: pure; data that was to be encrypted, or to lie where we cannot put it, is refused; a credential is neither read nor repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from hotlog.kernel.errors import InvalidConfig

_MANAGER = "remote.log.storage.manager."
_CLASS, _PREFIX = _MANAGER + "class.name", _MANAGER + "impl.prefix"
_PREFIX_DEFAULT = "rsm.config."
_S3_KEYS = ("bucket.name", "region", "endpoint.url", "path.style.access.enabled")
_CREDENTIALS = ("storage.aws.access.key.id", "storage.aws.secret.access.key", "storage.aws.credentials.file")


class PluginStore(NamedTuple):
    """The store that a plugin's keys mean (None: they say nothing), the keys that said it, and those that do nothing here."""

    url: str | None = None
    said_by: str = ""
    keys_read: frozenset[str] = frozenset()
    without_effect: tuple[str, ...] = ()


def store_of_plugin(given: Mapping[str, str], *, has_store: bool) -> PluginStore:
    """What `rsm.config.*` means.

    Args:
        has_store: somebody has said where the store is (--store); the plugin's keys are not needed then.
    Raises:
        InvalidConfig: naming the key, and what to do.
    """
    prefix = given.get(_PREFIX, "").strip() or _PREFIX_DEFAULT
    own = {name.removeprefix(prefix): text.strip() for name, text in given.items() if name.startswith(prefix)}
    plugin = given.get(_CLASS, "").strip()
    if not own and not plugin:
        return PluginStore()
    read = frozenset(name for name in given if name.startswith(prefix))
    if own.get("encryption.enabled", "false").lower() == "true":
        raise InvalidConfig(
            f"{prefix}encryption.enabled: objects are not encrypted by Hotlog; have the bucket do it (SSE-S3 or SSE-KMS), then take the key out"
        )
    if has_store:
        return PluginStore(keys_read=read, without_effect=tuple(sorted(read)))
    secret = next((name for name in _CREDENTIALS if own.get(name)), None)
    if secret is not None:
        raise InvalidConfig(
            f"{prefix}{secret}: credentials come from the AWS chain (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, a role);"
            " take the key out"
        )
    backend = own.get("storage.backend.class", "").rpartition(".")[2]
    if backend == "S3Storage" or (not backend and "storage.s3.bucket.name" in own):
        url, used = _bucket(own, prefix)
    elif backend == "FileSystemStorage" and own.get("storage.root"):
        url, used = "file://" + quote(own["storage.root"]), ("storage.root",)
    else:
        named = f"{prefix}storage.backend.class" if own.get("storage.backend.class") else _CLASS if plugin else f"{prefix}*"
        raise InvalidConfig(
            f"{named}: this plugin's store is not known here; say with --store where the data goes ({prefix}* does not count then)"
        )
    said = {prefix + name for name in (*used, "storage.backend.class")}
    return PluginStore(url, ", ".join(sorted(said & set(given))), read, tuple(sorted(read - said)))


def _bucket(own: Mapping[str, str], prefix: str) -> tuple[str, tuple[str, ...]]:
    named = {name: own.get(f"storage.s3.{name}", "") for name in _S3_KEYS}
    if not named["bucket.name"]:
        raise InvalidConfig(f"{prefix}storage.s3.bucket.name is missing: give it, or say with --store where the data goes")
    options = [
        f"{option}={quote(named[name], safe=':/')}"
        for option, name in (("endpoint", "endpoint.url"), ("region", "region"))
        if named[name]
    ]
    if named["path.style.access.enabled"]:
        options.append("addressing=" + ("path" if named["path.style.access.enabled"].lower() == "true" else "virtual"))
    url = f"s3://{named['bucket.name']}/{quote(own.get('key.prefix', '').strip('/'))}"
    return url + ("?" + "&".join(options) if options else ""), (*(f"storage.s3.{name}" for name in _S3_KEYS), "key.prefix")
