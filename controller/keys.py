"""Every object key of the cluster's metadata, built and parsed here and nowhere else.

    cluster                                     which cluster this bucket (and prefix) belongs to; written once
    <cluster id>/meta/head                      the register whose replacement is the commit
    <cluster id>/meta/log/<start>-<end>-<nonce> an immutable page of records
    <cluster id>/meta/snapshot/<offset>-<nonce> an immutable image
    <cluster id>/meta/ends/<node>/<incarnation> how far the logs of one life of a node have come

Invariants: pure; a page or snapshot name carries a nonce, so no name is ever used twice.
"""

from __future__ import annotations

from uuid import UUID

CLUSTER_KEY = "cluster"


def head_key(cluster_id: str) -> str:
    return f"{cluster_id}/meta/head"


def page_key(cluster_id: str, start: int, end: int, nonce: str) -> str:
    """Records [start, end)."""
    return f"{cluster_id}/meta/log/{start:020d}-{end:020d}-{nonce}"


def snapshot_key(cluster_id: str, offset: int, nonce: str) -> str:
    """The image after every record below `offset`."""
    return f"{cluster_id}/meta/snapshot/{offset:020d}-{nonce}"


def ends_prefix(cluster_id: str, node_id: int) -> str:
    """All lives of the node."""
    return f"{cluster_id}/meta/ends/{node_id}/"


def ends_key(cluster_id: str, node_id: int, incarnation: UUID) -> str:
    return f"{ends_prefix(cluster_id, node_id)}{incarnation}"


def file_name(key: str) -> str:
    """The name of a key's copy in the local mirror; unique per key."""
    return key.replace("/", "+")
