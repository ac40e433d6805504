"""The client side of the wire: one connection to another broker, over which many calls are under way at once.

A connection begins with ApiVersions (KIP-35, KIP-511), so that each call is made in a version that both sides speak.  A broker answers a
connection's requests in their order; what is answered late, after its caller gave up, is read and dropped.

Invariants: a reply belongs to the oldest call that has none, by correlation id, or the connection ends; a call ends with its reply, at its
deadline or with its connection, whichever is first; at most CALLS_MAX calls are under way, those that were given up included; whoever
fails is told whether something may have happened (OutcomeUnknown) or not (PeerUnavailable).
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from kio.schema.errors import ErrorCode

from hotlog.kernel.errors import Invalid, OutcomeUnknown, PeerUnavailable, TooLarge
from hotlog.kernel.limits import KiB, MiB
from hotlog.wire.apis import (
    API_VERSIONS_KEY,
    decode_response,
    encode_request,
    requests,
    response_body,
    versions_known,
)
from hotlog.wire.frame import FrameReader
from hotlog.world.ports import Network

T = TypeVar("T")
CALLS_MAX = 256  # under way on one connection
REPLY_BYTES_MAX = 128 * MiB
CONNECT_SECONDS = 10.0
SCRATCH_BYTES = 64 * KiB
REPLY_BYTES_MIN = 4 + 2  # correlation id, and the shortest body: an error code
SOFTWARE = "hotlog"
_INT = struct.Struct(">i")
_SHORT = struct.Struct(">h")
Read = Callable[[int, memoryview, int], T]  # (version, frame, position of the body) -> reply


class _Replies(FrameReader):
    """Frames that are replies: shorter ones are possible than of requests."""

    __slots__ = ()

    def _checked(self, size: int) -> int:
        if not REPLY_BYTES_MIN <= size <= REPLY_BYTES_MAX:
            raise TooLarge(f"reply size {size} is not possible; {REPLY_BYTES_MIN} to {REPLY_BYTES_MAX} bytes are")
        return size


class _Call(NamedTuple):
    correlation_id: int
    reply: asyncio.Future[memoryview]


class Peer(asyncio.BufferedProtocol):
    """One connection to a broker; made by `connect`.  `versions` is what the other side serves, by API key."""

    def __init__(self, name: str, client_id: str) -> None:
        self.name = name
        self.versions: dict[int, range] = {}
        self._client_id = client_id
        self._reader = _Replies(memoryview(bytearray(SCRATCH_BYTES)), REPLY_BYTES_MAX)
        self._calls: deque[_Call] = deque()  # bounded by CALLS_MAX; in the order of their requests
        self._last_id = 0
        self._transport: asyncio.Transport | None = None
        self._may_write = asyncio.Event()
        self._is_over = False
        self._why_closed = "not open yet"

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop transports are not subclasses
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        for frame in self._reader.received(nbytes):
            if self._transport is None:
                return
            (correlation_id,) = _INT.unpack_from(frame)
            if not self._calls or self._calls[0].correlation_id != correlation_id:
                self._fail(f"it answered {correlation_id}, which is not what was asked first")
                return
            reply = self._calls.popleft().reply
            if not reply.done():
                reply.set_result(frame)
        if self._reader.failure is not None:
            self._fail(str(self._reader.failure))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(f"the connection ended{f' ({exc})' if exc else ''}")

    def _fail(self, why: str) -> None:
        transport = self._transport
        self._ended(why)
        if transport is not None:
            transport.abort()

    def _ended(self, why: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._transport, self._why_closed = None, why
        self._may_write.set()  # whoever waits sees that there is no transport
        for call in self._calls:
            if not call.reply.done():
                call.reply.set_exception(OutcomeUnknown(f"{self.name} did not answer: {why}"))
        self._calls.clear()

    # Calls

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    @property
    def calls(self) -> int:
        """How many calls are under way, those that were given up included."""
        return len(self._calls)

    def version(self, key: int, own: range) -> int:
        """The highest version of API `key` that is in `own` and is served there.

        Raises:
            Invalid: there is none.
        """
        served = self.versions.get(key, range(0))
        common = range(max(own.start, served.start), min(own.stop, served.stop))
        if not common:
            spoken, there = f"{own.start} to {own.stop - 1}", f"{served.start} to {served.stop - 1}" if served else "none"
            raise Invalid(f"{self.name} serves versions {there} of API {key}; this broker speaks {spoken}")
        return common[-1]

    async def call(self, request: Any, *, within_s: float) -> Any:
        """Ask with a kio request entity; return kio's response entity of the same API and version.

        Raises:
            PeerUnavailable: nothing was sent; OutcomeUnknown: it was, and no reply came in time, or none that can be read.
        """
        frame = await self._asked(request, within_s)
        try:
            return decode_response(request.__api_key__, request.__version__, frame)
        except Invalid as damage:
            self._fail(str(damage))
            raise OutcomeUnknown(f"{self.name}: {damage}") from damage

    async def call_and_read(self, request: Any, read: Read[T], *, within_s: float) -> T:
        """As `call`, with a reader of one's own for the reply's body, which is a view of what was received.

        Raises:
            as `call`.
        """
        frame = await self._asked(request, within_s)
        try:
            return read(request.__version__, frame, response_body(request.__api_key__, request.__version__, frame))
        except Invalid as damage:
            self._fail(str(damage))
            raise OutcomeUnknown(f"{self.name}: {damage}") from damage

    async def _asked(self, request: Any, within_s: float) -> memoryview:
        is_sent = False
        try:
            async with asyncio.timeout(within_s):
                await self._may_write.wait()
                reply = self._send(request)
                is_sent = True
                return await reply
        except TimeoutError:
            kind = OutcomeUnknown if is_sent else PeerUnavailable
            raise kind(f"{self.name} did not answer within {within_s:g} s") from None

    def _send(self, request: Any) -> asyncio.Future[memoryview]:
        if self._transport is None:
            raise PeerUnavailable(f"{self.name} is not connected: {self._why_closed}")
        if len(self._calls) >= CALLS_MAX:
            raise PeerUnavailable(f"{CALLS_MAX} calls wait for {self.name} already")
        self._last_id = (self._last_id + 1) & 0x7FFFFFFF
        frame = encode_request(self._last_id, self._client_id, request)
        call = _Call(self._last_id, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        self._transport.write(frame)
        return call.reply

    def close(self) -> None:
        """End the connection; calls that are under way fail."""
        self._fail("it was closed here")

    # The first call

    async def greet(self, within_s: float) -> None:
        """Learn what the other side serves.

        Raises:
            as `call`.
        """
        version = versions_known(API_VERSIONS_KEY)[-1]
        response = await self.call_and_read(_greeting(version), _served, within_s=within_s)
        if response is None:  # it is older than this version, and said so in the layout of version 0
            response = await self.call_and_read(_greeting(0), _served, within_s=within_s)
        if response is None:
            self._fail("it speaks no version of ApiVersions that is known here")
            raise PeerUnavailable(f"{self.name} speaks no version of ApiVersions that is known here")
        self.versions = response


def _greeting(version: int) -> Any:
    return requests(API_VERSIONS_KEY, version).ApiVersionsRequest(client_software_name=SOFTWARE, client_software_version="1")


def _served(version: int, frame: memoryview, position: int) -> dict[int, range] | None:
    """What an ApiVersions reply says is served; None for "not in this version"."""
    if _SHORT.unpack_from(frame, position)[0] == ErrorCode.unsupported_version:
        return None
    response = decode_response(API_VERSIONS_KEY, version, frame)
    return {one.api_key: range(one.min_version, one.max_version + 1) for one in response.api_keys}


async def connect(network: Network, host: str, port: int, *, client_id: str, within_s: float = CONNECT_SECONDS) -> Peer:
    """A connection to the broker at (host, port), greeted.

    Raises:
        PeerUnavailable: nobody listens there, or nothing answered in time.
    """
    name = f"{host}:{port}"
    try:
        async with asyncio.timeout(within_s):
            peer = await network.connect(lambda: Peer(name, client_id), host, port)
            try:
                await peer.greet(within_s)
            except BaseException:
                peer.close()
                raise
    except TimeoutError:
        raise PeerUnavailable(f"{name} did not answer within {within_s:g} s") from None
    except OSError as why:
        raise PeerUnavailable(f"{name} cannot be reached: {why}") from why
    except OutcomeUnknown as why:  # it was only greeted: nothing happened
        raise PeerUnavailable(str(why)) from why
    return peer
