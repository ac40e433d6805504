"""What an API is: its number, its versions, the function behind it, and what every handler is told about a request.

An API has a general way (`decode`, `handle`, a response that is encoded) and may have a short one: a plain function from the bytes of a
request to the bytes of its answer, for the shape that nearly all its requests have.

Invariants: one module per API (`kNN_name.py`) defines exactly one `Api`; a handler that never waits is a plain
function: it is called as soon as the request is received, and no asyncio task is made for it; a short way answers what the general way would
have answered, or says that it cannot, and has then changed nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from hotlog.kernel.addresses import PLAINTEXT
from hotlog.world.ports import Buffer, Streamed

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker


class Principal(NamedTuple):
    """Who somebody is, as authentication found: Kafka's `User:alice`."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


ANONYMOUS = Principal("User", "ANONYMOUS")  # of a listener that asks nobody


class Caller(NamedTuple):
    """Who is at the other end of a connection.  Made when it comes and again whenever it authenticates; `peer` is (host, port)."""

    peer: tuple[str, int]
    connection_id: int
    listener: str = PLAINTEXT
    principal: Principal = ANONYMOUS


@dataclass(slots=True)
class RequestContext:
    """Who asks for what.  `arrived` is monotonic seconds."""

    api_key: int
    version: int
    correlation_id: int
    client_id: str | None
    caller: Caller
    arrived: float
    has_failed: bool = False  # set by a handler that answers with an error code, for the metrics


class Spliced(NamedTuple):
    """A response body that is already bytes, or file parts: in order, spliced into the connection untouched; `size` is their sum in bytes."""

    buffers: list[Buffer | Streamed]
    size: int


class Later(NamedTuple):
    """The ordered part of a request is done, the reply comes when `reply` completes; the connection's next request may begin before."""

    reply: Awaitable[Any]


Answer = bytes | list[Buffer | Streamed]  # a whole frame, size first


class Owner(Protocol):
    """Who waits for an answer: the connection."""

    def answered(self, pending: Pending) -> None:
        """`buffers` of an answer are there now."""
        ...


class Pending:
    """An answer of a short way that comes later, by a call: the ordered part of its request is done, and the next request may begin.

    With `holds` the next request of the connection may not begin before: it is to see what this one did.  Who makes it calls `known` once,
    on the loop, unless the connection is lost before and it says that it is `gone`.  The rest is the connection's: what it needs to account for the
    request.
    """

    __slots__ = ("arrived", "buffers", "door", "frame_bytes", "has_failed", "owner")
    holds: ClassVar[bool] = False

    def __init__(self) -> None:
        self.buffers: list[Buffer | Streamed] | None = None  # the whole answer, size first; None until it is known
        self.has_failed = False
        self.owner: Owner | None = None
        self.door: Any = None
        self.arrived = 0.0  # monotonic seconds
        self.frame_bytes = 0

    def known(self, answer: Answer, *, has_failed: bool = False) -> None:
        """This is the answer."""
        self.buffers = answer if isinstance(answer, list) else [answer]
        self.has_failed = has_failed
        if self.owner is not None:
            self.owner.answered(self)

    def gone(self) -> bool:
        """The connection is lost: nobody waits for the answer.  True: it was given up, and `known` is not called any more."""
        return False


Short = Callable[[Caller, memoryview, int, int], Answer | Pending | None]
"""(caller, data, start, end) -> the answer to the request that is data[start:end], its header included and its size not.

The answer is a whole frame, size first, as bytes or in pieces; empty bytes mean that there is none to send.  None: the request must go the general way; nothing was
changed, `data` least of all.  `data` is the caller's again when it returns: nobody may keep a view of it.
"""

Handler = Callable[["Broker", RequestContext, Any], Awaitable[Any] | Any]
Decode = Callable[[int, memoryview, int], Any]  # (version, frame, position of the body) -> request
Quick = Callable[["Broker", Caller, int, memoryview, int], bytes | Pending | None]
"""(broker, caller, version, frame, position of the body) -> all of the response behind its correlation id, a Pending of the whole response,
or None."""


@dataclass(frozen=True, kw_only=True)
class Api:
    """One Kafka API.

    `handle` takes a kio request entity (or what `decode` makes) and returns a kio response entity, a `Spliced`, or None for "no reply"
    (Produce with acks=0).  It may return an awaitable of these instead (the connection's next request then waits for it), or a `Later`.
    An error that leaves it is answered by `refuse`, or by a response that holds only the error code; where the protocol has no place for
    that, the connection is closed.  `ends_with_connection`: cancel the wait when the client is gone (a long poll).  `decodes_any_size`: bytes of a request say
    nothing about how long it takes to read (records).  `short` makes the short way of a version, where there is one.  `omits` names parts
    of the API that are not built.  Without `is_told` ApiVersions says nothing of it, though it is answered.

    `quick` is the short way for what is asked most: a plain function from the bytes of a request to the bytes of its response, the
    very ones that the long way makes.  For every other request, and wherever the answer has an error code, it does nothing and
    returns None, or raises one of NOT_SHORT (hotlog.wire.short_bodies): then the request goes the long way.
    """

    key: int
    name: str
    versions: range
    handle: Handler
    decode: Decode | None = None
    quick: Quick | None = None
    refuse: Callable[[RequestContext, Any, BaseException], Any] | None = None
    ends_with_connection: bool = False
    decodes_any_size: bool = False
    short: Callable[[Broker, int], Short] | None = None
    omits: tuple[str, ...] = ()
    is_told: bool = True
