"""The verbs that talk to a broker do so as any Kafka client: librdkafka through confluent-kafka.

Invariants: a client error leaves as HotlogError with the broker's own words; a broker that is not there is told within CONNECT_SECONDS, with
its address; nothing here knows Hotlog's internals.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from difflib import get_close_matches
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from hotlog.cli.exact_producer import ExactProducer
from hotlog.cli.output import say
from hotlog.kernel.errors import HotlogError, Invalid, NotFound, OutOfRange, Retry

T = TypeVar("T")
CONNECT_SECONDS = 5  # a broker that takes longer to take a connection is told to be away
WAIT_SECONDS = 30
PORT_DEFAULT = 9092
BATCH_BYTES_MAX = 1_000_000
MESSAGE_BYTES_LIMITS = 1000, 1_000_000_000  # what librdkafka allows
# librdkafka's name -> ours; anything else is ClientError.
_KINDS: dict[str, type[HotlogError]] = {
    "UNKNOWN_TOPIC_OR_PART": NotFound, "_UNKNOWN_TOPIC": NotFound, "_UNKNOWN_PARTITION": NotFound,
    "OFFSET_OUT_OF_RANGE": OutOfRange, "_AUTO_OFFSET_RESET": OutOfRange, "_INVALID_ARG": Invalid, "_CONFLICT": Invalid,
    "_TRANSPORT": Retry, "_ALL_BROKERS_DOWN": Retry, "_TIMED_OUT": Retry, "_RESOLVE": Retry, "_MSG_TIMED_OUT": Retry,
    "REQUEST_TIMED_OUT": Retry, "NOT_CONTROLLER": Retry, "COORDINATOR_NOT_AVAILABLE": Retry, "LEADER_NOT_AVAILABLE": Retry,
    "NOT_LEADER_FOR_PARTITION": Retry,
}  # fmt: skip


class ClientError(HotlogError):
    """What the broker (or the way to it) answered."""


class ClientRecord(NamedTuple):
    """A consumed record in the shape of hotlog.wire.records.Record."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def record_of(message: Any, headers_of: Callable[[Any], list[tuple[str, bytes | None]]]) -> ClientRecord:
    """A librdkafka message as a record; `headers_of`: hotlog.cli.exact_headers."""
    kind, timestamp = message.timestamp()
    return ClientRecord(message.offset(), timestamp, int(kind == 2), message.key(), message.value(), headers_of(message))


def admin(bootstrap: str, extra: Mapping[str, Any] | None = None) -> AdminClient:
    """A client for topics and their configuration; `extra` are librdkafka properties, here and below.

    Raises:
        Retry: nobody takes a connection there.  Invalid: a property that librdkafka does not know or take.
    """
    return _made(AdminClient, bootstrap, {}, extra)


def producer(bootstrap: str, extra: Mapping[str, Any] | None = None) -> ExactProducer:
    """An idempotent producer with batches up to 1 MB."""
    base: dict[str, Any] = {
        "enable.idempotence": True, "linger.ms": 20, "batch.size": BATCH_BYTES_MAX, "queue.buffering.max.messages": 500_000,
        "compression.type": "zstd",
    }  # fmt: skip
    return _made(ExactProducer, bootstrap, base, extra)


def consumer(bootstrap: str, extra: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer that commits nothing and is told where partitions end; an offset that is gone is an error, not another place."""
    base: dict[str, Any] = {
        "group.id": "hotlog-cli", "enable.auto.commit": False, "auto.offset.reset": "error", "enable.partition.eof": True,
        "fetch.message.max.bytes": 8 << 20,
    }  # fmt: skip
    return _made(Consumer, bootstrap, base, extra)


def limits(bootstrap: str, topic: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a producer under which the topic takes what is sent: records up to its limit, batches that fit a segment."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    client = admin(bootstrap, extra)
    try:
        found = answered(lambda: client.describe_configs([resource])[resource].result(WAIT_SECONDS), bootstrap)
    except NotFound:
        return {}  # it will be made with the broker's defaults, if the broker makes topics
    record_max, segment_max = (int(found[key].value) for key in ("max.message.bytes", "segment.bytes"))
    least, most = MESSAGE_BYTES_LIMITS
    return {
        "message.max.bytes": min(max(record_max, least), most),
        "batch.size": max(min(BATCH_BYTES_MAX, record_max, segment_max), 1),
    }


def _made(kind: Callable[..., T], bootstrap: str, base: dict[str, Any], extra: Mapping[str, Any] | None) -> T:
    extra = dict(extra or {})
    for name, value in extra.items():
        _check_property(name, value)
    bootstrap = extra.pop("bootstrap.servers", bootstrap)
    reach(bootstrap)
    always = {"bootstrap.servers": bootstrap, "logger": _quiet(), "error_cb": _teller(bootstrap)}
    return answered(lambda: kind(base | extra | always), bootstrap)


def _check_property(name: str, value: Any) -> None:
    """What librdkafka's binding would not survive: a NUL, a text that is not UTF-8, a consumer without a group's name."""
    if isinstance(value, str) and ("\0" in value or value.encode("utf-8", "replace") != value.encode("utf-8", "surrogateescape")):
        raise Invalid(f"{name}={value!r} is not a text without NUL, in UTF-8")
    if name == "group.id" and not value:
        raise Invalid("the name of a group (--group, group.id) is empty")


def reach(bootstrap: str) -> None:
    """See that somebody listens at one of the addresses: librdkafka itself would try for as long as it is let.

    Raises:
        Retry: nobody does within CONNECT_SECONDS, with each address.  Invalid: not HOST:PORT.
    """
    addresses = _addresses(bootstrap)
    answers: SimpleQueue[tuple[str, str]] = SimpleQueue()
    for address in addresses:  # side by side: the time is for all of them, and for their names to be resolved
        threading.Thread(target=_knock, args=(address, answers), daemon=True).start()
    failures = {f"{host}:{port}": "no answer" for host, port in addresses}
    give_up = time.monotonic() + CONNECT_SECONDS
    for _ in addresses:
        try:
            where, failure = answers.get(timeout=max(give_up - time.monotonic(), 0))
        except Empty:
            break
        if not failure:
            return
        failures[where] = failure
    told = ", ".join(f"{where} ({failure})" for where, failure in failures.items())
    raise Retry(f"no broker answers at {told}; is `hotlog serve` running? --bootstrap or HOTLOG_BOOTSTRAP names another")


def _knock(address: tuple[str, int], answers: SimpleQueue[tuple[str, str]]) -> None:
    """Puts the address and why nobody listens there; "" if somebody does."""
    host, port = address
    try:
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
        answers.put((f"{host}:{port}", ""))
    except (OSError, UnicodeError) as failure:
        answers.put((f"{host}:{port}", str(getattr(failure, "strerror", None) or failure)))


def _addresses(bootstrap: str) -> list[tuple[str, int]]:
    found = []
    for part in filter(None, (part.strip() for part in bootstrap.split(","))):
        where = part.rpartition("://")[2]
        host, mark, port = where.rpartition(":")
        if not mark or where.endswith("]"):
            host, port = where, str(PORT_DEFAULT)
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise Invalid(f"--bootstrap {part!r} is not HOST:PORT")
        found.append((host.strip("[]"), int(port)))
    if not found:
        raise Invalid("--bootstrap names no broker; HOST:PORT is wanted, several with commas between them")
    return found


def answered(call: Callable[[], T], at: str = "the broker") -> T:
    """Run a client call; its KafkaException leaves as ClientError (or NotFound, Retry, Invalid) with the broker's message.

    An answer that takes more than CONNECT_SECONDS is remarked on, with the address.
    """
    try:
        with _remark(f"no answer from {at} yet; waiting up to {WAIT_SECONDS} s"):
            return call()
    except KafkaException as failure:
        raise error_of(failure.args[0], at) from None
    except FutureTimeoutError:
        raise Retry(f"no answer from {at} within {WAIT_SECONDS} s") from None
    except (ValueError, TypeError, OverflowError) as wrong:  # what librdkafka's binding says of arguments
        raise Invalid(str(wrong)) from None


def topic_meta(client: Any, topic: str, at: str = "the broker") -> Any:
    """Metadata of a topic that exists; asking for it by its name alone might create it.

    Raises:
        NotFound: it does not exist, with the nearest name that does.
    """
    topics = answered(lambda: client.list_topics(timeout=WAIT_SECONDS), at).topics
    meta = topics.get(topic)
    if meta is None:
        near = get_close_matches(topic, topics, 1)
        raise NotFound(f"topic {topic!r} does not exist" + (f"; did you mean {near[0]!r}?" if near else ""))
    if meta.error is not None:
        raise error_of(meta.error, at)
    return meta


def error_of(error: Any, at: str = "the broker") -> HotlogError:
    """A KafkaError as one of ours."""
    name, text = error.name(), error.str()
    kind = _KINDS.get(name, ClientError)
    if kind is Retry:
        return Retry(f"no answer from {at}: {text}")
    return kind(f"{name}: {text}" if kind is ClientError else text)


@contextmanager
def _remark(text: str) -> Iterator[None]:
    timer = threading.Timer(CONNECT_SECONDS, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _teller(bootstrap: str) -> Callable[[Any], None]:
    """Says it when every broker went away; librdkafka goes on trying."""

    def heard(error: Any) -> None:
        if error.name() == "_ALL_BROKERS_DOWN":
            say(f"lost the broker at {bootstrap}; waiting for it")

    return heard


def _quiet() -> logging.Logger:
    """librdkafka's log lines go to a logger of their own, silent unless HOTLOG_LOG asks for more."""
    logger = logging.getLogger("hotlog.client")
    logger.propagate = bool(os.environ.get("HOTLOG_LOG"))
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
