"""Every object key of the cluster's metadata, built and parsed here and nowhere else.

    cluster                                     which cluster this bucket (and prefix) belongs to; written once
    <cluster id>/meta/head                      the register whose replacement is the commit
    <cluster id>/meta/log/<start>-<end>-<nonce> an immutable page of records
    <cluster id>/meta/snapshot/<offset>-<nonce> an immutable image

Invariants: pure; a page or snapshot name carries a nonce, so no name is ever used twice.
"""

from __future__ import annotations

CLUSTER_KEY = "cluster"


def head_key(cluster_id: str) -> str:
    return f"{cluster_id}/meta/head"


def page_key(cluster_id: str, start: int, end: int, nonce: str) -> str:
    """Records [start, end)."""
    return f"{cluster_id}/meta/log/{start:020d}-{end:020d}-{nonce}"


def snapshot_key(cluster_id: str, offset: int, nonce: str) -> str:
    """The image after every record below `offset`."""
    return f"{cluster_id}/meta/snapshot/{offset:020d}-{nonce}"


def file_name(key: str) -> str:
    """The name of a key's copy in the local mirror; unique per key."""
    return key.replace("/", "+")
