"""One prefix of one bucket, as everything that talks to it shares it.

Invariants: `full` is the only way a key becomes an S3 key; nothing here does I/O.
"""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from hotlog.world.ports import STANDARD
from tiering.store.resilient import Retrier, UploadLimits
from tiering.store.s3_get import Reader

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client


class Bucket(NamedTuple):
    """What every view of one store shares."""

    client: S3Client
    reader: Reader
    name: str
    prefix: str  # "" or "a/b/"
    checksum: bool
    retrier: Retrier
    limits: UploadLimits
    stack: AsyncExitStack
    lacks: set[str]  # requests that the store has turned out not to know

    def full(self, key: str) -> str:
        return self.prefix + key

    def says(self, verb: str, key: str) -> str:
        return f"{verb} {key} in s3://{self.name}/{self.prefix}"


def crc_header(crc: int) -> str:
    """A CRC-32C as S3 writes it: base64 of the 4 big-endian bytes."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def class_header(storage_class: str) -> dict[str, Any]:
    """Request parameters for a storage class; none for the standard one, which stores without classes need not know."""
    return {} if storage_class == STANDARD else {"StorageClass": storage_class}
