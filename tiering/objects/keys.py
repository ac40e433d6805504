"""Every object key of the cold tier, built and parsed; pure.

    <cluster id>/data/<2 hex>/<topic id>/<partition>/manifest
    <cluster id>/data/<2 hex>/<topic id>/<partition>/archive/<start>-<end>-<nonce>.parquet        rows
    <cluster id>/data/<2 hex>/<topic id>/<partition>/archive/<start>-<end>-<nonce>.index          references to pages
    <cluster id>/data/<2 hex>/<topic id>/<partition>/<base>-<epoch>-<nonce>.seg

Offsets are 20 decimal digits (as in Kafka's file names), a nonce is 32 hex digits, the 2 hex digits are the lowest byte of the CRC-32C of
topic id and partition: they spread partitions over the store's key space.

Invariants: ids and numbers only, never a topic name or client text; parse(build(x)) == x; a key that was not built here does not
parse; a nonce is never used twice, so no key is ever written twice with different bytes.
"""

from __future__ import annotations

import re
import struct
from typing import Literal, NamedTuple
from uuid import UUID

from crc32c import crc32c

from hotlog.kernel.errors import Invalid
from hotlog.kernel.ids import PartitionId
from tiering.objects.address import SHARED, Address

_CLUSTER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(
    r"(?P<cluster>[A-Za-z0-9_-]{1,64})/data/(?P<hash>[0-9a-f]{2})/(?P<topic>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"/(?P<partition>0|[1-9][0-9]{0,9})/"
    r"(?:(?P<manifest>manifest)"
    r"|archive/(?P<start>[0-9]{20})-(?P<end>[0-9]{20})-(?P<page_nonce>[0-9a-f]{32})\.(?:parquet|index)"
    r"|(?P<base>[0-9]{20})-(?P<epoch>0|[1-9][0-9]{0,9})-(?P<nonce>[0-9a-f]{32})\.seg)"
)

Kind = Literal["manifest", "archive", "segment"]


class ParsedKey(NamedTuple):
    """What a key says.  `epoch` is the writer's leader epoch of a segment, -1 else; offsets are -1 where the kind has none."""

    cluster_id: str
    pid: PartitionId
    kind: Kind
    name: str  # relative to the partition's prefix, as manifests store it
    start_offset: int
    end_offset: int
    epoch: int
    nonce: str


def spread(pid: PartitionId) -> str:
    """Two hex digits from topic id and partition."""
    return f"{crc32c(pid.topic_id.bytes + struct.pack('>i', pid.partition)) & 0xFF:02x}"


def segment_name(base_offset: int, epoch: int, nonce: str) -> str:
    """Name of a segment object, relative to its partition."""
    assert min(base_offset, epoch) >= 0, (base_offset, epoch)
    assert _NONCE.fullmatch(nonce), nonce
    return f"{base_offset:020d}-{epoch}-{nonce}.seg"


def page_name(start_offset: int, end_offset: int, nonce: str, *, is_index: bool = False) -> str:
    """Name of an archive page, relative to its partition; `is_index`: of one that has references in place of rows."""
    assert 0 <= start_offset < end_offset, (start_offset, end_offset)
    assert _NONCE.fullmatch(nonce), nonce
    return f"archive/{start_offset:020d}-{end_offset:020d}-{nonce}.{'index' if is_index else 'parquet'}"


class PartitionKeys(NamedTuple):
    """The keys of one partition of one cluster."""

    cluster_id: str
    pid: PartitionId

    @property
    def prefix(self) -> str:
        """Ends with "/"; everything of the partition lies below it."""
        return f"{data_prefix(self.cluster_id)}{spread(self.pid)}/{self.pid.topic_id}/{self.pid.partition}/"

    @property
    def manifest(self) -> str:
        return self.prefix + "manifest"

    def object(self, name: str) -> str:
        """Whole key of an object that a manifest names: below the partition, or one that partitions share (tiering.objects.address)."""
        return self.cluster_id + name if name.startswith(SHARED) else self.prefix + name

    def part(self, address: Address) -> str:
        """What a segment is called in caches and messages: its key, and where it begins in an object that holds others too."""
        key = self.object(address.object)
        return f"{key}@{address.start}" if address.is_shared else key


def data_prefix(cluster_id: str) -> str:
    """Below this lies all topic data of a cluster.

    Raises:
        Invalid: a cluster id that may not be part of a key.
    """
    if not _CLUSTER_ID.fullmatch(cluster_id):
        raise Invalid(f"cluster id {cluster_id!r} is not allowed: 1 to 64 characters of [A-Za-z0-9_-]")
    return f"{cluster_id}/data/"


def parse_key(key: str) -> ParsedKey | None:
    """What a listed key is, or None if it was not built here (foreign objects are never touched)."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    pid = PartitionId(UUID(match["topic"]), int(match["partition"]))
    cluster, partition_prefix = match["cluster"], PartitionKeys(match["cluster"], pid).prefix
    if match["hash"] != spread(pid):
        return None
    name = key[len(partition_prefix) :]
    if match["manifest"]:
        return ParsedKey(cluster, pid, "manifest", name, -1, -1, -1, "")
    if match["start"]:
        return ParsedKey(cluster, pid, "archive", name, int(match["start"]), int(match["end"]), -1, match["page_nonce"])
    return ParsedKey(cluster, pid, "segment", name, int(match["base"]), -1, int(match["epoch"]), match["nonce"])
