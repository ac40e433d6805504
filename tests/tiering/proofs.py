"""What a test asks a tier that has been through something: its bytes, and a root that every byte agrees with."""

from __future__ import annotations

from hotlog.wire.batch import walk
from tests.tiering.support import KEYS, PID, Node
from tests.tools.patience import SOON_S
from tiering.manifest.root import Manifest
from tiering.manifest.verify import verify_partition

CLUSTER = KEYS.cluster_id


async def read_cold(there: Node, start: int, end: int) -> bytes:
    """Everything in [start, end) through the cold reader."""
    cold, pieces, offset = there.tier.get(PID), [], start
    assert cold is not None
    while offset < end:
        piece = await cold.read(offset, 1 << 20, wait_ms=int(SOON_S * 1000))
        headers = [header for _, header in walk(piece.data)]
        assert headers, f"nothing at offset {offset}"
        pieces.append(bytes(piece.data))
        offset = headers[-1].next_offset
    return b"".join(pieces)


async def proven(there: Node) -> Manifest:
    """The committed root, after every byte of the partition was proven and what is live is exactly what it says."""
    report = await verify_partition(there.store, CLUSTER, PID, deep=True)
    assert report.problems == []
    manifest = await there.manifest().load()
    assert manifest is not None
    return manifest
