"""One keep-alive HTTP connection that a thread drives: a body arrives where it is kept, in a few system calls.

aiohttp gives a body of 16 MiB to the event loop in hundreds of pieces and joins them.  Here a blocking socket receives it into the caller's
buffer with one `recv` that waits for all of it (over TLS: record by record), while the event loop serves others.

Invariants: one thread at a time exchanges; any thread may abort an exchange, which then ends at once and harms no later one; a connection
that is not known to be clean is closed; a request is repeated only when it left on a kept connection and no answer began.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, RemoteDisconnected
from typing import NamedTuple

_ERROR_BYTES_MAX = 64 * 1024
_WAIT_ALL = getattr(socket, "MSG_WAITALL", 0)


class Place(NamedTuple):
    """Where a store listens, and how long may be waited for it (seconds)."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    connect_seconds_max: float
    read_seconds_max: float


class Wanted(NamedTuple):
    """One ranged GET: path and signed headers, how a fitting Content-Range begins, and where the bytes go."""

    path: str
    headers: Mapping[str, str]
    range_head: str
    into: memoryview


class Reply(NamedTuple):
    """An answer.  `body`: an error's text; `is_received`: the buffer has all that was asked for."""

    status: int
    headers: HTTPMessage
    body: bytes
    is_received: bool


class Connection:
    """A connection that is made when it is needed, and again when the store has closed it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._http: _Http | None = None
        self._lock = threading.Lock()  # over what `abort` looks at
        self._number = 0  # of the exchange under way or ended last
        self._aborted = -1

    def begin(self) -> int:
        """The number under which the next exchange can be aborted."""
        self._number += 1
        return self._number

    def abort(self, number: int | None = None) -> None:
        """End exchange `number` if it is this connection's newest (None: whichever is); its thread raises or has done so."""
        with self._lock:
            if number is not None and number != self._number:
                return
            self._aborted = self._number
            if self._http is not None:
                self._http.shut()

    def exchange(self, wanted: Wanted) -> Reply:
        """Send a GET and receive its answer (blocking).

        Raises:
            OSError: there was no whole answer.
        """
        try:
            http = self._kept()
            if http is not None:
                try:
                    return self._receive(http, wanted)
                except (BrokenPipeError, ConnectionResetError, RemoteDisconnected):
                    if http.has_answered:
                        raise
                    self.close()  # the store closed it meanwhile: a GET may be asked twice
            return self._receive(self._fresh(), wanted)
        except BaseException as error:
            self.close()
            if isinstance(error, HTTPException) and not isinstance(error, OSError):
                raise ConnectionError(f"the answer is not HTTP: {type(error).__name__}: {error}") from error
            raise

    def close(self) -> None:
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def _kept(self) -> _Http | None:
        """The connection of the last exchange if the store has not closed it."""
        if self._http is not None and not self._http.is_quiet:
            self.close()
        return self._http

    def _fresh(self) -> _Http:
        http = _Http(self._place)
        with self._lock:
            if self._aborted == self._number:
                raise ConnectionAbortedError("the GET was given up")
            self._http = http
        http.connect()
        return http

    def _receive(self, http: _Http, wanted: Wanted) -> Reply:
        http.has_answered = False
        http.request("GET", wanted.path, headers=wanted.headers)
        response = http.getresponse()
        http.has_answered = True
        is_received, body = False, b""
        if response.status not in (200, 206):
            body = response.read(_ERROR_BYTES_MAX)
        elif response.length == len(wanted.into) and response.headers.get("Content-Range", "").startswith(wanted.range_head):
            http.fill(response, wanted.into)
            is_received = True
        is_clean = (is_received or response.isclosed()) and not response.will_close
        response.close()
        if not is_clean:
            self.close()
        return Reply(response.status, response.headers, body, is_received)


class _Http(HTTPConnection):
    """http.client's connection over a blocking socket that can be shut from another thread while it is still connecting."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.host, place.port)
        if place.tls is not None:
            self.default_port = 443  # for the Host header, which is signed
        self._place = place
        self._raw: socket.socket | None = None
        self._is_shut = False
        self.has_answered = False

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer: not the end of the stream either."""
        if self.sock is None:
            return False
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        return not poller.poll(0)

    def connect(self) -> None:
        place, failure = self._place, OSError(f"{self._place.host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM):
            raw = self._raw = socket.socket(family, kind, protocol)
            try:
                if self._is_shut:
                    raise ConnectionAbortedError("the GET was given up")
                raw.settimeout(place.connect_seconds_max)
                raw.connect(address)
                self.sock = self._prepared(raw)
                if self._is_shut:  # before there was something to shut
                    raise ConnectionAbortedError("the GET was given up")
            except OSError as error:
                failure = error
                self._raw.close()
            else:
                return
        raise failure

    def _prepared(self, raw: socket.socket) -> socket.socket:
        """A connected socket, ready for requests."""
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._place.tls is not None:
            secure = self._place.tls.wrap_socket(raw, server_hostname=self._place.host, do_handshake_on_connect=False)
            raw = self._raw = secure
            secure.do_handshake()
        # Not settimeout: that makes the socket non-blocking, and one `recv` no longer waits for everything.
        raw.settimeout(None)
        seconds = struct.pack("ll", int(self._place.read_seconds_max), 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        return raw

    def fill(self, response: HTTPResponse, into: memoryview) -> None:
        """Receive the body that was announced. Raises ConnectionError when it ends before."""
        got = response.fp.readinto1(into)  # what came with the head
        flags = _WAIT_ALL if self._place.tls is None else 0
        while got < len(into):
            count = self.sock.recv_into(into[got:], len(into) - got, flags)
            if count == 0:
                raise ConnectionResetError(f"the body ended after {got} of {len(into)} bytes")
            got += count

    def shut(self) -> None:
        """End whatever a thread waits for on this connection (safe from any thread)."""
        self._is_shut = True
        raw = self._raw
        if raw is not None:
            with suppress(OSError):
                socket.socket.shutdown(
                    raw, socket.SHUT_RDWR
                )  # not SSLSocket's: that one takes the TLS state away under the reader
