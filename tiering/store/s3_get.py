"""GETs without botocore's per-request work: the hot path of cold reads.

A botocore request costs about 1.4 ms of CPU, of which the transfer needs a third.  The first GET goes the ordinary way, and its URL and
signing scope are noted as they left; from then on a GET is signed (botocore's own SigV4) and sent on the same aiohttp session, with the same
pool, TLS settings and refreshing credentials.  Where anything is unusual (a proxy, another signature, a redirect) the ordinary way stays.

Invariants: both ways give the same answers and errors; a direct GET that is refused in a way that may be the route's fault forgets the
route.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http.client import responses
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from yarl import URL

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request")
_ROUTE_KEPT = {404, 412, 416, 429, 500, 502, 503, 504}  # anything else may come of how the request was made
_ERROR_BYTES_MAX = 64 * 1024


class OnceSession(AIOHTTPSession):
    """HTTP without aiohttp's own repeat of a request whose connection broke: it repeats PUT, which for a conditional write turns a
    success into a lost race."""

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)  # type: ignore[misc]
        session._retry_connection = False  # there is no public switch; tests/store/test_faults.py counts the requests
        return session

    async def direct(self, url: str) -> aiohttp.ClientSession | None:
        """The session for `url`; None where a proxy stands between."""
        return None if self._proxy_config.proxy_url_for(url) else await self._get_session(None)  # type: ignore[attr-defined]


class Answer(NamedTuple):
    """A GET that was answered with bytes; `read` takes them all."""

    content_range: str | None
    content_length: int
    etag: str
    read: Callable[[], Awaitable[bytes]]


class _Route(NamedTuple):
    """Where objects are, and for which region requests are signed."""

    base: str  # an object's URL is this and its quoted key
    region: str


class Reader:
    """GETs of one client."""

    def __init__(self, client: S3Client, credentials: Callable[[], Any]) -> None:
        self._client = client
        self._credentials = credentials
        self._route: _Route | None = None
        self._session: aiohttp.ClientSession | None = None
        self._asking: ContextVar[str] = ContextVar("asking")
        client.meta.events.register("before-send.s3.GetObject", self._note)

    @asynccontextmanager
    async def get(self, bucket: str, key: str, asked: str | None) -> AsyncIterator[Answer]:
        """One GET with the Range header `asked`.

        Raises:
            ClientError: the store answered with an error.  BotoCoreError, aiohttp.ClientError, OSError: it did not answer.
        """
        if self._route is not None and self._session is not None:
            async with self._direct(self._route, self._session, key, asked) as answer:
                yield answer
            return
        self._asking.set(quote(key, safe="/~"))
        extra: dict[str, Any] = {"Range": asked} if asked else {}
        got = await self._client.get_object(Bucket=bucket, Key=key, **extra)
        if self._route is not None:
            http: Any = getattr(getattr(self._client, "_endpoint", None), "http_session", None)
            self._session = await http.direct(self._route.base) if isinstance(http, OnceSession) else None
        async with got["Body"] as stream:
            yield Answer(got.get("ContentRange"), got["ContentLength"], got["ETag"], stream.read)

    def _note(self, request: Any, **_: Any) -> None:
        """Hook: learn the route from an ordinary request as it leaves."""
        url, key = str(request.url), self._asking.get("")
        signed = request.headers.get("Authorization", "")
        scope = _SCOPE.match(signed.decode() if isinstance(signed, bytes) else str(signed))
        if key and scope and url.endswith("/" + key):
            self._route = _Route(url[: -len(key)], scope[1])

    @asynccontextmanager
    async def _direct(self, route: _Route, session: aiohttp.ClientSession, key: str, asked: str | None) -> AsyncIterator[Answer]:
        url = route.base + quote(key, safe="/~")
        request = AWSRequest("GET", url, headers={"Range": asked} if asked else {})
        credentials = await self._credentials()
        S3SigV4Auth(await credentials.get_frozen_credentials(), "s3", route.region).add_auth(request)
        headers: Mapping[str, str] = {**dict(request.headers.items()), "Accept-Encoding": "identity"}
        async with session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
            if response.status not in (200, 206):
                if response.status not in _ROUTE_KEPT:
                    self._route = None
                raise _error(response.status, await response.content.read(_ERROR_BYTES_MAX))
            length = int(response.headers.get("Content-Length", "-1"))
            yield Answer(response.headers.get("Content-Range"), length, response.headers.get("ETag", ""), response.read)


def _error(status: int, body: bytes) -> ClientError:
    """What botocore would have made of the answer."""
    told = {"Code": str(status), "Message": responses.get(status, "")}
    try:
        for each in ElementTree.fromstring(body):
            told[each.tag.rpartition("}")[2]] = each.text or ""
    except ElementTree.ParseError:
        pass  # an answer without a body, or a proxy's page
    return ClientError({"Error": told, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]
