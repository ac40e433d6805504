"""What a classic consumer group is, what happens to it, and what it answers: values only.

Invariants: frozen; a member waits for at most one of join and sync; what is counted (`static`, `known_by`, `size`,
`assigned_size`) is that of `members` and `assignments`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from hotlog.coordinators.effects import Arm, Reverted, Token

Protocols = tuple[tuple[str, bytes], ...]
PENDING_MEMBERS_MAX = 10_000
MEMBER_BYTES, PROTOCOL_BYTES = 1024, 256  # what a member and each of its protocols take beside what they say, about
NEW_MEMBER_JOIN_MS_MAX = (
    300_000  # Kafka's group.new.member.join.timeout: a new one whose first join is not answered by then is gone
)


class State(Enum):
    """The names that DescribeGroups and ListGroups tell."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


class Code(StrEnum):
    """Kafka's error codes that a group answers with, by the names kio gives them."""

    NONE = "none"
    UNKNOWN_MEMBER_ID = "unknown_member_id"
    ILLEGAL_GENERATION = "illegal_generation"
    INCONSISTENT_GROUP_PROTOCOL = "inconsistent_group_protocol"
    INVALID_SESSION_TIMEOUT = "invalid_session_timeout"
    REBALANCE_IN_PROGRESS = "rebalance_in_progress"
    MEMBER_ID_REQUIRED = "member_id_required"
    FENCED_INSTANCE_ID = "fenced_instance_id"
    GROUP_MAX_SIZE_REACHED = "group_max_size_reached"
    COORDINATOR_NOT_AVAILABLE = "coordinator_not_available"
    INVALID_GROUP_ID = "invalid_group_id"
    GROUP_ID_NOT_FOUND = "group_id_not_found"
    NON_EMPTY_GROUP = "non_empty_group"
    GROUP_SUBSCRIBED_TO_TOPIC = "group_subscribed_to_topic"
    UNKNOWN_SERVER_ERROR = "unknown_server_error"
    UNKNOWN_TOPIC_OR_PARTITION = "unknown_topic_or_partition"
    OFFSET_METADATA_TOO_LARGE = "offset_metadata_too_large"
    FENCED_MEMBER_EPOCH = "fenced_member_epoch"
    STALE_MEMBER_EPOCH = "stale_member_epoch"
    UNRELEASED_INSTANCE_ID = "unreleased_instance_id"
    UNSUPPORTED_ASSIGNOR = "unsupported_assignor"
    UNSUPPORTED_VERSION = "unsupported_version"
    INVALID_REGULAR_EXPRESSION = "invalid_regular_expression"
    INVALID_REQUEST = "invalid_request"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: Protocols

    @cached_property
    def size(self) -> int:
        """Bytes of memory it holds, about; its assignment aside."""
        return MEMBER_BYTES + len(self.client_id) + len(self.instance_id or "") + protocol_bytes(self.protocols)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The protocols it knows, each once, the one it prefers first."""
        return tuple(dict.fromkeys(name for name, _ in self.protocols))

    @cached_property
    def session(self) -> Arm:
        """Its session begins anew; the same effect at every heartbeat."""
        return Arm(member_timer(self.member_id), self.session_timeout_ms, MemberDue(self.member_id))

    def metadata(self, protocol: str | None) -> bytes:
        """What the member says under `protocol`."""
        for name, data in self.protocols:
            if name == protocol:
                return data
        return b""


class Lease:
    """Mappings of a group that nobody else holds: the next step may change them in place instead of a copy.

    Thousands of members that join are as many steps, and each would copy all members.  A step takes the lease of the group that goes in, which is
    used up then; whoever keeps a group, or gives it out, ends its lease first (`Group.kept`).
    """

    __slots__ = ("_names",)

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(names)

    def take(self) -> set[str]:
        names, self._names = self._names, set()
        return names

    def give_back(self, names: set[str]) -> None:
        self._names = names


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group.  `joining` and `syncing` are the requests that wait for an answer, by member; `pending` are ids given out that have not
    joined yet (KIP-394)."""

    group_id: str
    state: State = State.EMPTY
    generation: int = 0
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str | None = None
    members: Mapping[str, Member] = field(default_factory=dict)
    assignments: Mapping[str, bytes] = field(default_factory=dict)
    joining: Mapping[str, Token] = field(default_factory=dict)
    syncing: Mapping[str, Token] = field(default_factory=dict)
    pending: Mapping[str, None] = field(default_factory=dict)
    is_storing: bool = False  # an assignment is on its way to the log
    initial_ms_left: int = 0  # how much longer the first rebalance may be put off (KIP-134)
    initial_grew: bool = False  # a member came since the delay was last armed
    static: Mapping[str, str] = field(default_factory=dict)  # member id by group.instance.id
    known_by: Mapping[str, int] = field(default_factory=dict)  # how many members know a protocol
    size: int = 0  # of all members, bytes; their assignments aside
    assigned_size: int = 0  # of all assignments, bytes
    lease: Lease = field(default_factory=Lease, compare=False, repr=False)

    def kept(self) -> Group:
        """The group, to be kept: no step changes it any more."""
        self.lease.take()
        return self

    def assignment(self, member_id: str) -> bytes:
        """What the member was assigned last."""
        return self.assignments.get(member_id, b"")


def group_of(group_id: str, members: Iterable[Member], assignments: Mapping[str, bytes], **fields: Any) -> Group:
    """A group of `members`, counted."""
    by_id = {member.member_id: member for member in members}
    known_by: dict[str, int] = {}
    for member in by_id.values():
        for name in member.names:
            known_by[name] = known_by.get(name, 0) + 1
    static = {member.instance_id: member.member_id for member in by_id.values() if member.instance_id is not None}
    size = sum(member.size for member in by_id.values())
    assigned_size = sum(map(len, assignments.values()))
    return Group(
        group_id=group_id,
        members=by_id,
        assignments=assignments,
        static=static,
        known_by=known_by,
        size=size,
        assigned_size=assigned_size,
        **fields,
    )


def protocol_bytes(protocols: Protocols) -> int:
    """Bytes of memory that a member's protocols hold, about."""
    return sum(PROTOCOL_BYTES + len(name) + len(data) for name, data in protocols)


class Limits(NamedTuple):
    """What the broker's settings allow, in ms and members; `bytes_max` of what one group's members say and are assigned."""

    session_ms_min: int
    session_ms_max: int
    initial_delay_ms: int
    members_max: int
    bytes_max: int


# Events


@dataclass(frozen=True, kw_only=True)
class JoinRequest:
    """What a client says with JoinGroup.  `member_id` is "" as long as it has none."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: Protocols
    needs_known_id: bool
    can_skip_assignment: bool


@dataclass(frozen=True, kw_only=True)
class Join(JoinRequest):
    """JoinGroup.  `fresh_id` is an id that was never used, in case one is needed."""

    token: Token
    fresh_id: str


@dataclass(frozen=True, kw_only=True)
class Sync:
    """SyncGroup; `assignments` come from the leader only."""

    token: Token
    member_id: str
    instance_id: str | None
    generation: int
    protocol_type: str | None
    protocol: str | None
    assignments: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Heartbeat."""

    token: Token
    member_id: str
    instance_id: str | None
    generation: int


@dataclass(frozen=True, kw_only=True)
class Leave:
    """LeaveGroup: (member id, instance id) of each who leaves."""

    token: Token
    members: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, kw_only=True)
class CommitCheck:
    """May this member commit offsets, as this generation?  Generation -1: a simple consumer."""

    token: Token
    member_id: str
    instance_id: str | None
    generation: int


class MemberDue(NamedTuple):
    """A member's session, or a given-out id, has run out."""

    member_id: str


class NewMemberDue(NamedTuple):
    """A new member has waited long for the answer to its first join; nobody knows whether it is still there."""

    member_id: str


class JoinDue(NamedTuple):
    """Members have had their time to join."""


class SyncDue(NamedTuple):
    """Members have had their time to sync."""


class Stored(NamedTuple):
    """The log has the assignment of `generation`, or could not take it."""

    generation: int
    is_ok: bool


class Revived(NamedTuple):
    """The group was read from the log: its members have one session to show up, and a group that is too large now is rebalanced."""


Event = Join | Sync | Heartbeat | Leave | CommitCheck | MemberDue | NewMemberDue | JoinDue | SyncDue | Stored | Revived | Reverted

# Answers


class Joined(NamedTuple):
    """Answer to a Join; `members` (id, instance id, metadata) for the leader only."""

    code: Code
    member_id: str
    generation: int = -1
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    members: tuple[tuple[str, str | None, bytes], ...] = ()
    skip_assignment: bool = False


class Synced(NamedTuple):
    """Answer to a Sync."""

    code: Code
    protocol_type: str | None = None
    protocol: str | None = None
    assignment: bytes = b""


class Left(NamedTuple):
    """Answer to a Leave: (member id, instance id, code) of each."""

    members: tuple[tuple[str, str | None, Code], ...]


JOIN_TIMER, SYNC_TIMER = "join", "sync"


def member_timer(member_id: str) -> Hashable:
    return ("member", member_id)
