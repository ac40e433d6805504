"""How partitions are divided: the server-side assignors `uniform` and `range` of KIP-848.  Pure.

Invariants: every partition of a topic that somebody wants has exactly one member, one that wants the topic; members keep what they have as far as the
balance allows; the same input gives the same output, whatever its order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from hotlog.coordinators.consumer.values import Parts

MOVES_PER_PARTITION_MAX = 4  # of the search for a better balance where members want different topics


class Wish(NamedTuple):
    """A member as an assignor sees it: the ids of the topics that it wants, and what it was to have so far."""

    instance_id: str | None
    topics: frozenset[UUID]
    before: Parts


Members = Mapping[str, Wish]
Counts = Mapping[UUID, int]  # partitions by topic id
Assignment = dict[str, dict[UUID, set[int]]]


def uniform(members: Members, counts: Counts) -> Assignment:
    """As many partitions for each member, give or take one, and as few as possible that move."""
    if len({wish.topics for wish in members.values()}) == 1:
        return _even(members, counts)
    return _balanced(members, counts)


def ranges(members: Members, counts: Counts) -> Assignment:
    """The same share of each topic for each member that wants it, so that the same partitions of like topics meet; sticky."""
    given: Assignment = {member_id: {} for member_id in members}
    for topic_id in sorted(set().union(*(wish.topics for wish in members.values())) if members else ()):
        wanting = [member_id for member_id in _ordered(members) if topic_id in members[member_id].topics]
        share, extra = divmod(counts[topic_id], len(wanting))
        kept: dict[str, list[int]] = {}
        free = set(range(counts[topic_id]))
        for member_id in wanting:
            had = sorted(free.intersection(members[member_id].before.get(topic_id, ())))
            has_extra = len(had) > share and extra > 0
            extra -= has_extra
            kept[member_id] = had[: share + has_extra]
            free.difference_update(kept[member_id])
        left = iter(sorted(free))
        for member_id in wanting:
            due = share - len(kept[member_id])
            if extra > 0 and due >= 0:
                due, extra = due + 1, extra - 1
            kept[member_id] += [next(left) for _ in range(due)]
            if kept[member_id]:
                given[member_id][topic_id] = set(kept[member_id])
    return given


ASSIGNORS: dict[str, Callable[[Members, Counts], Assignment]] = {"uniform": uniform, "range": ranges}


def _ordered(members: Members) -> list[str]:
    """Static members first, by their instances; then the others by their ids."""
    return sorted(
        members, key=lambda member_id: (members[member_id].instance_id is None, members[member_id].instance_id or member_id)
    )


def _even(members: Members, counts: Counts) -> Assignment:
    """All want the same topics."""
    order = sorted(members)
    topics = sorted(members[order[0]].topics)
    share, extra = divmod(sum(counts[topic_id] for topic_id in topics), len(order))
    given: Assignment = {}
    free = {topic_id: set(range(counts[topic_id])) for topic_id in topics}
    room: dict[str, int] = {}
    for member_id in order:
        kept, before = given.setdefault(member_id, {}), members[member_id].before
        held = [(topic_id, index) for topic_id in topics for index in sorted(before.get(topic_id, ())) if index in free[topic_id]]
        quota = share
        if len(held) > share and extra > 0:
            quota, extra = share + 1, extra - 1
        for topic_id, index in held[:quota]:
            kept.setdefault(topic_id, set()).add(index)
            free[topic_id].discard(index)
        room[member_id] = quota - len(held[:quota])
    left = [(topic_id, index) for topic_id in topics for index in sorted(free[topic_id])]
    for member_id in order:
        full = sum(map(len, given[member_id].values())) > share
        if extra > 0 and not full:
            room[member_id], extra = room[member_id] + 1, extra - 1
    # One partition of each topic after another to each member in turn: who comes first does not get a whole topic.
    hungry = deque(member_id for member_id in order if room[member_id])
    for topic_id, index in left:
        member_id = hungry.popleft()
        given[member_id].setdefault(topic_id, set()).add(index)
        room[member_id] -= 1
        if room[member_id]:
            hungry.append(member_id)
    return given


def _balanced(members: Members, counts: Counts) -> Assignment:
    """Members want different topics: what is free goes to whoever has least, then partitions move from who has more while that evens out."""
    given: Assignment = {member_id: {} for member_id in members}
    load = dict.fromkeys(members, 0)
    wanting: dict[UUID, list[str]] = {}
    for member_id in sorted(members):
        for topic_id in members[member_id].topics:
            wanting.setdefault(topic_id, []).append(member_id)
    topics = sorted(wanting, key=lambda topic_id: (len(wanting[topic_id]), topic_id))  # those that few want have least choice
    for topic_id in topics:
        free = set(range(counts[topic_id]))
        for member_id in wanting[topic_id]:
            kept = free.intersection(members[member_id].before.get(topic_id, ()))
            if kept:
                given[member_id][topic_id] = kept
                load[member_id] += len(kept)
                free -= kept
        for index in sorted(free):
            member_id = min(wanting[topic_id], key=lambda each: (load[each], each))
            given[member_id].setdefault(topic_id, set()).add(index)
            load[member_id] += 1
    _even_out(given, load, wanting, topics, MOVES_PER_PARTITION_MAX * sum(counts[topic_id] for topic_id in topics))
    return {
        member_id: {topic_id: indexes for topic_id, indexes in parts.items() if indexes} for member_id, parts in given.items()
    }


def _even_out(
    given: Assignment, load: dict[str, int], wanting: Mapping[UUID, list[str]], topics: Iterable[UUID], moves_max: int
) -> None:
    """Each move makes a pair of members more alike, so this ends; `moves_max` bounds it all the same."""
    has_moved = True
    while has_moved and moves_max > 0:
        has_moved = False
        for topic_id in topics:
            while moves_max > 0:
                low = min(wanting[topic_id], key=lambda each: (load[each], each))
                holders = [member_id for member_id in wanting[topic_id] if given[member_id].get(topic_id)]
                high = max(holders, key=lambda each: (load[each], each), default=low)
                if load[high] - load[low] < 2:
                    break
                index = max(given[high][topic_id])
                given[high][topic_id].remove(index)
                given[low].setdefault(topic_id, set()).add(index)
                load[high] -= 1
                load[low] += 1
                moves_max -= 1
                has_moved = True
