"""What a group says to a member that only shows that it is alive, or commits: questions that change nothing.  Pure.

Invariants: each costs the same for a group of many members.
"""

from __future__ import annotations

from hotlog.coordinators.group_types import Code, Group, Member, State


def member_code(group: Group, member_id: str, instance_id: str | None) -> Code:
    """Whether these ids belong together here."""
    if instance_id is not None:
        known = group.static.get(instance_id)
        if known is None:
            return Code.UNKNOWN_MEMBER_ID
        if known != member_id:
            return Code.FENCED_INSTANCE_ID
    return Code.NONE if member_id in group.members else Code.UNKNOWN_MEMBER_ID


def heartbeat_code(group: Group, member_id: str, instance_id: str | None, generation: int) -> Code:
    """The answer to a heartbeat; NONE and REBALANCE_IN_PROGRESS begin the member's session anew."""
    code = member_code(group, member_id, instance_id)
    if code is Code.NONE and generation != group.generation:
        code = Code.ILLEGAL_GENERATION
    return Code.REBALANCE_IN_PROGRESS if code is Code.NONE and group.state is State.PREPARING else code


def commit_code(group: Group, member_id: str, instance_id: str | None, generation: int) -> Code:
    """Whether offsets may be committed so; see `who_lives`."""
    if generation < 0 and group.state is State.EMPTY:
        return Code.NONE
    if generation < 0 and not member_id and instance_id is None:
        return Code.UNKNOWN_MEMBER_ID
    code = member_code(group, member_id, instance_id)
    if code is not Code.NONE:
        return code
    if generation != group.generation:
        return Code.ILLEGAL_GENERATION
    return Code.REBALANCE_IN_PROGRESS if group.state is State.COMPLETING else Code.NONE


def transactional_commit_code(group: Group, member_id: str, instance_id: str | None, generation: int) -> Code:
    """The same for offsets of a transaction, which a producer commits: one that names no member is let through (KIP-447)."""
    if (generation < 0 and group.state is State.EMPTY) or (generation < 0 and not member_id and instance_id is None):
        return Code.NONE
    code = member_code(group, member_id, instance_id)
    return Code.ILLEGAL_GENERATION if code is Code.NONE and generation != group.generation else code


def who_lives(group: Group, member_id: str, code: Code) -> Member | None:
    """The member whose session begins anew by a commit that was answered so: one that waits for nothing else."""
    if code is not Code.NONE and code is not Code.REBALANCE_IN_PROGRESS:
        return None
    return None if member_id in group.joining or member_id in group.syncing else group.members.get(member_id)
