"""Keys and values of __transaction_state in Kafka's own format (TransactionLogKey and TransactionLogValue).

Written: key 0 with value 1.  Read: values 0 and 1.  Schemas:
https://github.com/apache/kafka/tree/trunk/transaction-coordinator/src/main/resources/common/message

Invariants: pure; what is written here is read back equal; cut-off bytes are Corrupt; an unknown key version is None (as Kafka, skipped).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from hotlog.coordinators.transaction_types import NO_EPOCH, NO_ID, NOWHERE, STATUSES, Place, Status, Transaction, Version
from hotlog.kernel.errors import Corrupt, Invalid
from hotlog.wire.bounds import uvarint
from hotlog.wire.fields import Reader, count_of, string_of

KEY_VERSION, VALUE_VERSION = 0, 1
FLEXIBLE_FROM = 1
PREVIOUS_ID, NEXT_ID, CLIENT_VERSION, NEXT_EPOCH = range(4)  # tags
STRING_BYTES_MAX = 32767
PARTITIONS_AT_ONCE = 1000  # of one piece
_HEAD = struct.Struct(">hqhib")  # version, producer id, epoch, timeout, status
_TIMES = struct.Struct(">qq")
_INT = struct.Struct(">i")
_TAGS = {PREVIOUS_ID: ">q", NEXT_ID: ">q", CLIENT_VERSION: ">h", NEXT_EPOCH: ">h"}


def encode_key(transactional_id: str) -> bytes:
    raw = transactional_id.encode("utf-8", "replace")
    if len(raw) > STRING_BYTES_MAX:
        raise Invalid(f"a transactional id of {len(raw)} bytes does not fit in a record; at most {STRING_BYTES_MAX} are allowed")
    return struct.pack(">hh", KEY_VERSION, len(raw)) + raw


def decode_key(raw: bytes) -> str | None:
    """The transactional id; None for a version that is not ours to read.

    Raises:
        Corrupt
    """
    try:
        version, size = struct.unpack_from(">hh", raw)
    except struct.error:
        raise Corrupt(f"transaction record key of {len(raw)} bytes is cut off") from None
    if version != KEY_VERSION:
        return None
    if size < 0 or len(raw) < 4 + size:
        raise Corrupt(f"transaction record key says {size} bytes; {len(raw) - 4} are there")
    return raw[4 : 4 + size].decode("utf-8", "replace")


def encode_value(txn: Transaction) -> bytes | Iterator[bytes]:
    """What is stored of it; in pieces where there are thousands of partitions."""
    return _pieces(txn) if len(txn.partitions) > PARTITIONS_AT_ONCE else b"".join(_pieces(txn))


def _pieces(txn: Transaction) -> Iterator[bytes]:
    yield _HEAD.pack(VALUE_VERSION, txn.producer_id, txn.epoch, txn.timeout_ms, txn.status.number)
    if txn.status is Status.EMPTY:
        yield count_of(-1, True)
    else:
        topics: dict[str, list[int]] = {}
        for topic, index in sorted(txn.partitions):
            topics.setdefault(topic, []).append(index)
        yield count_of(len(topics), True)
        for topic, indexes in topics.items():
            yield string_of(topic, True) + count_of(len(indexes), True) + b"".join(map(_INT.pack, indexes)) + b"\0"
    yield _TIMES.pack(txn.update_ms, txn.start_ms)
    values = ((PREVIOUS_ID, txn.previous_id, NO_ID), (NEXT_ID, txn.next_id, NO_ID), (CLIENT_VERSION, txn.version.level, 0))
    tags = [(tag, struct.pack(_TAGS[tag], value)) for tag, value, nothing in values if value != nothing]
    yield uvarint(len(tags)) + b"".join(uvarint(tag) + uvarint(len(data)) + data for tag, data in tags)


def decode_value(transactional_id: str, raw: bytes) -> Transaction:
    """The transactional id as it was stored.

    Raises:
        Corrupt
    """
    try:
        return _decoded(transactional_id, raw)
    except (Invalid, struct.error) as error:
        raise Corrupt(f"transaction record of {transactional_id!r}, {len(raw)} bytes, cannot be read: {error}") from None


def _decoded(transactional_id: str, raw: bytes) -> Transaction:
    version, producer_id, epoch, timeout_ms, number = _HEAD.unpack_from(raw)
    if not 0 <= version <= VALUE_VERSION or not 0 <= number < len(STATUSES):
        raise Corrupt(f"transaction record has version {version} and status {number}; versions 0 and 1 are read")
    read = Reader(memoryview(raw), _HEAD.size, version >= FLEXIBLE_FROM)
    partitions: set[Place] = set()
    for _ in range(read.count(2)):
        topic = read.string() or ""
        for index in _INT.iter_unpack(read.take_bytes(read.count(_INT.size) * _INT.size)):
            partitions.add((topic, index[0]))
        read.skip_tags()
    update_ms, start_ms = _TIMES.unpack(read.take_bytes(_TIMES.size))
    tags = _tags(read) if version >= FLEXIBLE_FROM else {}
    return Transaction(
        transactional_id=transactional_id,
        producer_id=producer_id,
        previous_id=tags.get(PREVIOUS_ID, NO_ID),
        next_id=tags.get(NEXT_ID, NO_ID),
        epoch=epoch,
        last_epoch=NO_EPOCH,
        timeout_ms=timeout_ms,
        status=STATUSES[number],
        partitions=frozenset(partitions) or NOWHERE,
        start_ms=start_ms,
        update_ms=update_ms,
        version=Version(tags.get(CLIENT_VERSION, 0)),
    )


def _tags(read: Reader) -> dict[int, int]:
    """Those that are known."""
    found: dict[int, int] = {}
    for _ in range(read.length() + 1):
        tag, size = read.length() + 1, read.length() + 1
        data = read.take_bytes(size)
        if tag in _TAGS:
            found[tag] = struct.unpack(_TAGS[tag], data)[0]
    return found


class TransactionCodec:
    """The same for a keyed log: a record's owner is its key."""

    def owner(self, key: str) -> str:
        return key

    def encode_key(self, key: str) -> bytes:
        return encode_key(key)

    def decode_key(self, raw: bytes) -> str | None:
        return decode_key(raw)

    def encode_value(self, value: Transaction) -> bytes | Iterator[bytes]:
        return encode_value(value)

    def decode_value(self, key: str, raw: bytes) -> Transaction:
        return decode_value(key, raw)
