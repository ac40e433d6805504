"""GETs without botocore's per-request work: the hot path of cold reads.

A botocore request costs about 1.4 ms of CPU, of which the transfer needs a third.  The first GET goes the ordinary way, and its URL and
signing scope are noted as they left; from then on a GET is signed (botocore's own SigV4) and sent on the same aiohttp session, with the same
pool, TLS settings and refreshing credentials.  Where anything is unusual (a proxy, another signature, a redirect) the ordinary way stays.

A large range goes to a thread with a connection of its own (s3_wire), which receives it into a buffer that is used again (buffers); when
all threads are busy, it goes by aiohttp like the small ones.

Invariants: all ways give the same answers and errors; a direct GET that is refused in a way that may be the route's fault forgets the
route; a GET that is cancelled leaves no thread waiting; after `close` there is no thread.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from http.client import responses
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.httpsession import create_urllib3_context
from yarl import URL

from hotlog.world.ports import Buffer
from tiering.store.buffers import LARGE_BYTES_MAX, LARGE_BYTES_MIN, Buffers
from tiering.store.s3_wire import Connection, Place, Reply, Wanted

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request")
_ROUTE_KEPT = {404, 412, 416, 429, 500, 502, 503, 504}  # anything else may come of how the request was made
_ERROR_BYTES_MAX = 64 * 1024
CONNECT_SECONDS_MAX = 10
READ_SECONDS_MAX = 300  # between two packets; the deadlines of resilient.py are the ones that act
THREADED_BYTES_MIN = LARGE_BYTES_MIN  # below, handing over to a thread costs more than it saves


class OnceSession(AIOHTTPSession):
    """HTTP without aiohttp's own repeat of a request whose connection broke: it repeats PUT, which for a conditional write turns a
    success into a lost race."""

    tls: ssl.SSLContext | None = (
        None  # for a connection beside aiohttp's; None before the first session, and where nothing is verified
    )

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)  # type: ignore[misc]
        session._retry_connection = False  # there is no public switch; tests/store/test_faults.py counts the requests
        return session

    def _get_ssl_context(self) -> ssl.SSLContext:
        """botocore's settings, to which aiobotocore adds its certificates.  And the host name is checked: botocore leaves that to urllib3,
        which is not here."""
        context: ssl.SSLContext = create_urllib3_context()
        context.check_hostname = True
        self.tls = context
        return context

    async def direct(self, url: str) -> aiohttp.ClientSession | None:
        """The session for `url`; None where a proxy stands between."""
        return None if self._proxy_config.proxy_url_for(url) else await self._get_session(None)  # type: ignore[attr-defined]


class Answer(NamedTuple):
    """A GET that was answered with bytes; `read` takes them all."""

    content_range: str | None
    content_length: int
    etag: str
    read: Callable[[], Awaitable[Buffer]]


class _Route(NamedTuple):
    """Where objects are, and for which region requests are signed."""

    base: str  # an object's URL is this and its quoted key
    region: str


class Reader:
    """GETs of one client; up to `threads` large ones at once go to threads."""

    def __init__(self, client: S3Client, credentials: Callable[[], Any], threads: int) -> None:
        self._client = client
        self._credentials = credentials
        self._route: _Route | None = None
        self._session: aiohttp.ClientSession | None = None
        self._wires: _Wires | None = None
        self._threads_max = threads
        self._asking: ContextVar[str] = ContextVar("asking")
        client.meta.events.register("before-send.s3.GetObject", self._note)

    @asynccontextmanager
    async def get(self, bucket: str, key: str, asked: str | None, span: tuple[int, int] | None = None) -> AsyncIterator[Answer]:
        """One GET with the Range header `asked`; `span`: the bytes [start, end) that it asks for, where both are known.

        Raises:
            ClientError: the store answered with an error.  BotoCoreError, aiohttp.ClientError, OSError: it did not answer.
        """
        route, session, wires = self._route, self._session, self._wires
        if route is not None and session is not None:
            is_large = span is not None and THREADED_BYTES_MIN <= span[1] - span[0] <= LARGE_BYTES_MAX
            if span is not None and is_large and wires is not None and wires.is_free:
                yield await self._threaded(route, wires, key, span)
                return
            async with self._direct(route, session, key, asked) as answer:
                yield answer
            return
        self._asking.set(quote(key, safe="/~"))
        extra: dict[str, Any] = {"Range": asked} if asked else {}
        got = await self._client.get_object(Bucket=bucket, Key=key, **extra)
        if self._route is not None:
            http: Any = getattr(getattr(self._client, "_endpoint", None), "http_session", None)
            self._session = await http.direct(self._route.base) if isinstance(http, OnceSession) else None
            if self._session is not None:
                self._open_wires(self._route, http)
        async with got["Body"] as stream:
            yield Answer(got.get("ContentRange"), got["ContentLength"], got["ETag"], stream.read)

    async def close(self) -> None:
        """End what is under way in threads, and the threads."""
        if self._wires is not None:
            await self._wires.close()

    def _open_wires(self, route: _Route, http: OnceSession) -> None:
        base = urlsplit(route.base)
        is_secure = base.scheme == "https"
        if is_secure and http.tls is None:
            return
        place = Place(
            base.hostname or "", base.port or (443 if is_secure else 80), http.tls if is_secure else None,
            CONNECT_SECONDS_MAX, READ_SECONDS_MAX,
        )  # fmt: skip
        if self._wires is None:
            self._wires = _Wires(place, self._threads_max)
        elif (place.host, place.port) != (self._wires.place.host, self._wires.place.port):
            self._wires.turn_off()

    def _note(self, request: Any, **_: Any) -> None:
        """Hook: learn the route from an ordinary request as it leaves."""
        url, key = str(request.url), self._asking.get("")
        signed = request.headers.get("Authorization", "")
        scope = _SCOPE.match(signed.decode() if isinstance(signed, bytes) else str(signed))
        if key and scope and url.endswith("/" + key):
            self._route = _Route(url[: -len(key)], scope[1])

    @asynccontextmanager
    async def _direct(self, route: _Route, session: aiohttp.ClientSession, key: str, asked: str | None) -> AsyncIterator[Answer]:
        url, headers = await self._signed(route, key, asked)
        headers["Accept-Encoding"] = "identity"
        async with session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
            if response.status not in (200, 206):
                raise self._refused(response.status, await response.content.read(_ERROR_BYTES_MAX))
            length = int(response.headers.get("Content-Length", "-1"))
            yield Answer(response.headers.get("Content-Range"), length, response.headers.get("ETag", ""), response.read)

    async def _threaded(self, route: _Route, wires: _Wires, key: str, span: tuple[int, int]) -> Answer:
        """The same in a thread: the answer has its body already, unless it is another one than was asked for."""
        start, end = span
        url, headers = await self._signed(route, key, f"bytes={start}-{end - 1}")
        reply, body = await wires.exchange(urlsplit(url).path, headers, start, end)
        if reply.status not in (200, 206):
            raise self._refused(reply.status, reply.body)

        async def read() -> Buffer:
            if not reply.is_received:
                wires.turn_off()  # a store that does not say how long its answers are: the next try goes by aiohttp
                raise ConnectionError("the answer came without its length")
            return body

        length = int(reply.headers.get("Content-Length", "-1"))
        return Answer(reply.headers.get("Content-Range"), length, reply.headers.get("ETag", ""), read)

    async def _signed(self, route: _Route, key: str, asked: str | None) -> tuple[str, dict[str, str]]:
        url = route.base + quote(key, safe="/~")
        request = AWSRequest("GET", url, headers={"Range": asked} if asked else {})
        credentials = await self._credentials()
        S3SigV4Auth(await credentials.get_frozen_credentials(), "s3", route.region).add_auth(request)
        return url, dict(request.headers.items())

    def _refused(self, status: int, body: bytes) -> ClientError:
        if status not in _ROUTE_KEPT:
            self._route = None
        return _error(status, body)


class _Wires:
    """Threads for large GETs, a connection each."""

    def __init__(self, place: Place, threads: int) -> None:
        self.place = place
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="s3-get")
        self._buffers = Buffers()
        self._idle: deque[Connection] = deque(maxlen=max(1, threads))  # the thread that ends an exchange puts its connection back
        self._made: list[Connection] = []
        self._is_off = False

    @property
    def is_free(self) -> bool:
        return not self._is_off and (bool(self._idle) or len(self._made) < self._threads)

    async def exchange(self, path: str, headers: Mapping[str, str], start: int, end: int) -> tuple[Reply, memoryview]:
        """The answer to a signed GET of bytes [start, end), and the buffer that it was received into."""
        into = self._buffers.buffer_of(end - start)
        connection = self._idle.pop() if self._idle else self._new()
        number = connection.begin()
        wanted = Wanted(path, headers, f"bytes {start}-{end - 1}/", into)
        work = self._pool.submit(_exchange, connection, [wanted])
        work.add_done_callback(lambda _: self._idle.append(connection))
        try:
            return await asyncio.wrap_future(work), into.toreadonly()
        except asyncio.CancelledError:
            connection.abort(number)
            raise

    def _new(self) -> Connection:
        connection = Connection(self.place)
        self._made.append(connection)
        return connection

    def turn_off(self) -> None:
        """Take no more GETs."""
        self._is_off = True

    async def close(self) -> None:
        """End every exchange, thread and connection."""
        self.turn_off()
        for connection in self._made:
            connection.abort()
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        for connection in self._made:
            connection.close()


def _exchange(connection: Connection, wanted: list[Wanted]) -> Reply:
    """In a thread.  Takes what is wanted out of the list: the pool holds on to arguments a moment longer than the result is waited for."""
    return connection.exchange(wanted.pop())


def _error(status: int, body: bytes) -> ClientError:
    """What botocore would have made of the answer."""
    told = {"Code": str(status), "Message": responses.get(status, "")}
    try:
        for each in ElementTree.fromstring(body):
            told[each.tag.rpartition("}")[2]] = each.text or ""
    except ElementTree.ParseError:
        pass  # an answer without a body, or a proxy's page
    return ClientError({"Error": told, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]
