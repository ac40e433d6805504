"""Record batches for stories, right and wrong, byte by byte; what they are is in tests/fixtures/raw_batch.

Invariants: the same words give the same bytes for both brokers; times are fixed, long ago.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

from crc32c import crc32c

from tests.fixtures.raw_batch import RawRecord, raw_batch

THEN = 1_600_000_000_000  # ms
COUNT_AT, CRC_AT, ATTRIBUTES_AT = 57, 17, 21


def batch(*values: bytes | None, codec: str = "none", at_ms: int = THEN, key: bytes | None = b"k", **more: Any) -> bytes:
    """A batch of these values, a ms apart, as Kafka takes it unless `more` says otherwise."""
    return of_records([RawRecord(at_ms + number, key, value) for number, value in enumerate(values)], codec, **more)


def of_records(records: Sequence[RawRecord], codec: str = "none", **more: Any) -> bytes:
    """A batch of these records."""
    if codec == "gzip":
        more = {"compress": partial(gzip.compress, mtime=0), **more}  # or its bytes would say when they were made
    return bytes(raw_batch(records, codec, **more))


def with_crc(data: bytes | bytearray) -> bytes:
    """The same with its CRC made right."""
    data = bytearray(data)
    struct.pack_into(">I", data, CRC_AT, crc32c(bytes(data[ATTRIBUTES_AT:])))
    return bytes(data)


def patched(data: bytes, position: int, form: str, value: int, *, is_sound: bool = True) -> bytes:
    """A batch in which one field is another; its CRC is right, or left as it was."""
    changed = bytearray(data)
    struct.pack_into(form, changed, position, value)
    return with_crc(changed) if is_sound else bytes(changed)
