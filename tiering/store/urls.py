"""Store URLs: `file:///path` and `s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1`.

Credentials are never part of a URL: they come from the ordinary AWS chain (environment, profile, instance role).

Invariants: a StoreUrl that exists can be opened as far as spelling goes; the text of an error never repeats a user name or password.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from hotlog.kernel.errors import Invalid
from tiering.store.keys import check_prefix

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_OPTIONS = ("endpoint", "region", "addressing", "checksum")
_FORMS = "file:///path or s3://bucket/prefix?endpoint=http://HOST:PORT&region=REGION"


class DirectoryUrl(NamedTuple):
    """A directory on this machine."""

    path: str

    def __str__(self) -> str:
        return f"file://{self.path}"


class S3Url(NamedTuple):
    """A bucket and a prefix ("" or "a/b", no slash at either end) at AWS, or at `endpoint`."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    checksum: str = "crc32c"  # "none" for servers that do not know x-amz-checksum-crc32c
    addressing: str = "auto"  # or "path", "virtual"; path where an endpoint is given: small S3 servers have no wildcard DNS

    def __str__(self) -> str:
        options = [f"{name}={value}" for name in ("endpoint", "region") if (value := getattr(self, name))]
        return f"s3://{self.bucket}/{self.prefix}" + ("?" + "&".join(options) if options else "")


def parse_store_url(url: str) -> DirectoryUrl | S3Url:
    """Parse one of the two forms.

    Raises:
        Invalid: naming what is wrong and what is allowed.
    """
    try:
        parts = urlsplit(url)
    except ValueError as wrong:
        raise Invalid(f"store URL {url!r} cannot be read ({wrong}); allowed is {_FORMS}") from wrong
    if parts.username or parts.password:
        raise Invalid(
            "store URL holds a user name or password; credentials come from the AWS chain (AWS_ACCESS_KEY_ID, profile, role)"
        )
    if parts.fragment:
        raise Invalid(f"store URL {url!r} has a fragment (#...); allowed is {_FORMS}")
    match parts.scheme:
        case "file":
            return _directory(url, parts.netloc, parts.path, parts.query)
        case "s3":
            return _s3(url, parts.netloc, parts.path, parts.query)
        case "":
            raise Invalid(f"store URL {url!r} has no scheme; allowed is {_FORMS}")
        case other:
            raise Invalid(f"store URL {url!r} has the scheme {other!r}; allowed is {_FORMS}")


def keeps_own_time(where: DirectoryUrl | S3Url) -> bool:
    """Whether the store's clock is another machine's, so that it can tell when this one's is wrong."""
    host = urlsplit(where.endpoint).hostname if isinstance(where, S3Url) and where.endpoint else None
    return isinstance(where, S3Url) and host not in _THIS_MACHINE


def _directory(url: str, host: str, path: str, query: str) -> DirectoryUrl:
    if host not in ("", "localhost"):
        raise Invalid(f"store URL {url!r} names a host {host!r}; a directory is written with three slashes: file:///path")
    if query:
        raise Invalid(f"store URL {url!r} has options; file:///path takes none")
    decoded = unquote(path)
    if not decoded.startswith("/") or decoded.strip("/") == "" or "\0" in decoded:
        raise Invalid(f"store URL {url!r} has no usable path; allowed is file:///path, and not the root directory")
    return DirectoryUrl(decoded.rstrip("/"))


def _s3(url: str, bucket: str, path: str, query: str) -> S3Url:
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise Invalid(f"store URL {url!r} has the bucket {bucket!r}; 3 to 63 characters of [a-z0-9.-] are allowed")
    prefix = unquote(path).strip("/")
    try:
        check_prefix(prefix)
    except Invalid as wrong:
        raise Invalid(f"store URL {url!r}: {wrong}") from wrong
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS or name in options or not value:
            raise Invalid(f"store URL {url!r} has the option {name}={value!r}; allowed, once each, are {', '.join(_OPTIONS)}")
        options[name] = value
    endpoint = options.get("endpoint")
    if endpoint is not None:
        _check_endpoint(url, endpoint)
    addressing = options.get("addressing", "path" if endpoint else "auto")
    checksum = options.get("checksum", "crc32c")
    for name, value, allowed in (
        ("addressing", addressing, ("path", "virtual", "auto")),
        ("checksum", checksum, ("crc32c", "none")),
    ):
        if value not in allowed:
            raise Invalid(f"store URL {url!r} has {name}={value}; allowed is {' or '.join(allowed)}")
    return S3Url(bucket, prefix, endpoint, options.get("region"), checksum, addressing)


def _check_endpoint(url: str, endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        raise Invalid(f"store URL {url!r} has endpoint={endpoint!r}; allowed is http://HOST:PORT or https://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or parts.path not in ("", "/") or parts.query:
        raise Invalid(f"store URL {url!r} has endpoint={endpoint!r}; allowed is http://HOST:PORT or https://HOST:PORT")
    if parts.username or parts.password:
        raise Invalid("the store URL's endpoint holds a user name or password; credentials come from the AWS chain")
