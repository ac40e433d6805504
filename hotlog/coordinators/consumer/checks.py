"""Whether a member may commit or fetch offsets of a consumer group of the new protocol.  Pure.

A commit of an older epoch than the member's is still good for partitions that it had already then (KIP-1251).
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from hotlog.coordinators.consumer.values import ConsumerGroup, Current
from hotlog.coordinators.group_types import Code

NEW_PROTOCOL_FROM = 9  # version of OffsetCommit


def commit_code(
    group: ConsumerGroup, member_id: str, epoch: int, version: int | None, places: Iterable[tuple[UUID | None, int]]
) -> Code:
    """Whether this member may commit offsets of `places` (topic id, partition) as of `epoch`; -1 is a simple consumer.  `version` of OffsetCommit,
    None for a transaction's."""
    if epoch < 0 and (not group.members or (version is None and not member_id)):
        return Code.NONE
    member = group.members.get(member_id)
    if member is None:
        return Code.UNKNOWN_MEMBER_ID
    current = member.current
    if member.said.classic is not None:
        return Code.NONE if epoch == current.epoch else Code.ILLEGAL_GENERATION
    if version is not None and version < NEW_PROTOCOL_FROM:
        return Code.UNSUPPORTED_VERSION
    if epoch == current.epoch:
        return Code.NONE
    if epoch > current.epoch:
        return Code.STALE_MEMBER_EPOCH
    for topic_id, index in places:
        since = _assigned_at(current, topic_id, index)
        if since is None or epoch < since:
            return Code.STALE_MEMBER_EPOCH
    return Code.NONE


def fetch_code(group: ConsumerGroup, member_id: str | None, epoch: int) -> Code:
    """Whether who asks for offsets is who it says it is; nobody has to say."""
    if member_id is None and epoch < 0:
        return Code.NONE
    member = group.members.get(member_id or "")
    if member is None:
        return Code.UNKNOWN_MEMBER_ID
    if epoch == member.current.epoch:
        return Code.NONE
    return Code.ILLEGAL_GENERATION if member.said.classic is not None else Code.STALE_MEMBER_EPOCH


def _assigned_at(current: Current, topic_id: UUID | None, index: int) -> int | None:
    """The epoch since which a member has a partition; None if it has it not."""
    if topic_id is None:
        return None
    found = current.assigned.get(topic_id, {}).get(index)
    return found if found is not None else current.revoking.get(topic_id, {}).get(index)
