"""Store URLs: `file:///path` and `s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1`.

Credentials are never part of a URL: they come from the ordinary AWS chain (environment, profile, instance role).

Invariants: a StoreUrl that exists can be opened as far as spelling goes; the text of an error repeats nothing of a URL that may hold
credentials, wherever in it they are: what people type wrongly is a secret with a slash, an endpoint with a user, `&secret_key=`.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from hotlog.kernel.errors import Invalid
from tiering.store.keys import check_prefix

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_ENDPOINT = re.compile(r"(https?://)?([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?/?")  # as far as one may be repeated
_WORD = re.compile(r"[a-z0-9-]{0,32}")  # a region and the like
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


def shown(url: str) -> str:
    """`url` as it may be told to people: whole, or only its scheme if credentials may be in it."""
    scheme, mark, rest = url.partition("://")
    place, _, query = unquote(rest).partition("?")
    is_plain = bool(mark) and not set(place) & set(":@#")
    for option in query.split("&") if query else ():
        name, _, value = option.partition("=")
        is_plain = is_plain and name in _OPTIONS and (_ENDPOINT if name == "endpoint" else _WORD).fullmatch(value) is not None
    if is_plain or (not mark and not set(unquote(url)) & set(":@#=?")):
        return repr(url)
    return (
        f"{scheme}://... (not repeated here: it may hold credentials)" if mark else "(not repeated here: it may hold credentials)"
    )


def parse_store_url(url: str) -> DirectoryUrl | S3Url:
    """Parse one of the two forms.

    Raises:
        Invalid: naming what is wrong and what is allowed.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text repeats a part of the URL
        raise Invalid(f"store URL {shown(url)} cannot be read; allowed is {_FORMS}") from None
    if parts.username or parts.password:
        raise Invalid(
            "store URL holds a user name or password; credentials come from the AWS chain (AWS_ACCESS_KEY_ID, profile, role)"
        )
    if parts.fragment:
        raise Invalid(f"store URL {shown(url)} has a fragment (#...); allowed is {_FORMS}")
    match parts.scheme:
        case "file":
            return _directory(url, parts.netloc, parts.path, parts.query)
        case "s3":
            return _s3(url, parts.netloc, parts.path, parts.query)
        case other if other and "://" in url:
            raise Invalid(f"store URL {shown(url)} has the scheme {other!r}; allowed is {_FORMS}")
        case _:
            raise Invalid(f"store URL {shown(url)} has no scheme; allowed is {_FORMS}")


def keeps_own_time(where: DirectoryUrl | S3Url) -> bool:
    """Whether the store's clock is another machine's, so that it can tell when this one's is wrong."""
    host = urlsplit(where.endpoint).hostname if isinstance(where, S3Url) and where.endpoint else None
    return isinstance(where, S3Url) and host not in _THIS_MACHINE


def _directory(url: str, host: str, path: str, query: str) -> DirectoryUrl:
    if host not in ("", "localhost"):
        raise Invalid(f"store URL {shown(url)} names a host; a directory is written with three slashes: file:///path")
    if query:
        raise Invalid(f"store URL {shown(url)} has options; file:///path takes none")
    decoded = unquote(path)
    if not decoded.startswith("/") or decoded.strip("/") == "" or "\0" in decoded:
        raise Invalid(f"store URL {shown(url)} has no usable path; allowed is file:///path, and not the root directory")
    return DirectoryUrl(decoded.rstrip("/"))


def _s3(url: str, bucket: str, path: str, query: str) -> S3Url:
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise Invalid(f"store URL {shown(url)} has no good bucket name; 3 to 63 characters of [a-z0-9.-] are allowed")
    prefix = unquote(path).strip("/")
    try:
        check_prefix(prefix)
    except Invalid as wrong:
        raise Invalid(
            f"store URL {shown(url)} has a prefix that no key can begin with: {_unless_hidden(url, str(wrong))}"
        ) from None
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS or name in options or not value:
            told = name if get_close_matches(name, _OPTIONS) else "that is not known"
            raise Invalid(
                f"store URL {shown(url)} has an option {told}; allowed, once each, with a value, are {', '.join(_OPTIONS)}"
            )
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
            raise Invalid(f"store URL {shown(url)} has a wrong {name}; allowed is {' or '.join(allowed)}")
    return S3Url(bucket, prefix, endpoint, options.get("region"), checksum, addressing)


def _unless_hidden(url: str, text: str) -> str:
    return text if shown(url) == repr(url) else "..."


def _check_endpoint(url: str, endpoint: str) -> None:
    if "@" in endpoint:
        raise Invalid("the store URL's endpoint holds a user name or password; credentials come from the AWS chain")
    try:
        parts = urlsplit(endpoint)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    if (
        not port_fits
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise Invalid(f"store URL {shown(url)} has a wrong endpoint; allowed is http://HOST:PORT or https://HOST:PORT")
