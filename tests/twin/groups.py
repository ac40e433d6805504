"""Requests about groups in few words, for stories; what is asked without words is not compared.

Invariants: every method asks the version of its round unless it is told another one; topics are named by the words of the story, and by name and
id, so that any version finds its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from collections.abc import Awaitable, Mapping
from typing import Any

from tests.twin.keys import Key
from tests.twin.stories.topics import UNKNOWN_ID
from tests.twin.telling import Side

PROTOCOLS = (("range", b"r"), ("sticky", b"s"))


Parts = Mapping[str, tuple[int, ...]]  # of topics by the words of the story


def _parts_shown(assignment: Any, *, counts_only: bool) -> Any:
    """An assignment whose partitions stand in order, or only their number: which of two topics an odd one is of follows from the topics' ids."""
    parts = assignment.topic_partitions
    if counts_only:
        return dataclasses.replace(assignment, topic_partitions=(sum(len(part.partitions) for part in parts),))
    return dataclasses.replace(
        assignment, topic_partitions=tuple(dataclasses.replace(part, partitions=tuple(sorted(part.partitions))) for part in parts)
    )


def _member_shown(member: Any) -> Any:
    return dataclasses.replace(
        member,
        subscribed_topic_names=tuple(sorted(member.subscribed_topic_names)),
        assignment=_parts_shown(member.assignment, counts_only=True),
        target_assignment=_parts_shown(member.target_assignment, counts_only=True),
    )


def subscription(*topics: str) -> bytes:
    """What a consumer says in its protocols (ConsumerProtocolSubscription version 1)."""
    named = b"".join(struct.pack(">h", len(topic)) + topic.encode() for topic in topics)
    return struct.pack(">hi", 1, len(topics)) + named + struct.pack(">ii", -1, 0)


class Groups:
    """One broker's groups."""

    def __init__(self, at: Side) -> None:
        self.at = at
        self.ids: dict[str, Any] = {}

    async def _ask(self, key: Key, what: str, version: int | None = None, /, **fields: Any) -> Any:
        if what:
            return await self.at.ask(key, what, version=version, **fields)
        fields.pop("only", None)
        return await self.at.ask_quietly(key, version=version, **fields)

    def _topic(self, word: str) -> dict[str, Any]:
        return dict(name=self.at.name(word), topic_id=self.ids.get(word, UNKNOWN_ID))

    def later(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        return self.at.later(work)

    # Members

    async def join(
        self, what: str, group: str, member: str = "", *, instance: str | None = None, version: int | None = None,
        session_ms: int = 30_000, rebalance_ms: int = 60_000, kind: str = "consumer",
        protocols: tuple[tuple[str, bytes], ...] = PROTOCOLS, reason: str | None = None,
    ) -> Any:  # fmt: skip
        return await self._ask(
            Key.JOIN_GROUP, what, version, group_id=group, session_timeout=session_ms, rebalance_timeout=rebalance_ms, member_id=member,
            group_instance_id=instance, protocol_type=kind, reason=reason,
            protocols=[dict(name=name, metadata=data) for name, data in protocols],
        )  # fmt: skip

    async def joined(self, what: str, group: str, **options: Any) -> Any:
        """A member that takes the id it is given, if it is asked to."""
        answer = await self.join(what, group, **options)
        if answer.error_code.name == "member_id_required":
            answer = await self.join(what and f"{what}, with its id", group, answer.member_id, **options)
        return answer

    async def sync(
        self, what: str, group: str, member: str, generation: int, *, instance: str | None = None, version: int | None = None,
        kind: str | None = "consumer", protocol: str | None = "range", assignments: Mapping[str, bytes] | None = None,
    ) -> Any:  # fmt: skip
        return await self._ask(
            Key.SYNC_GROUP, what, version, group_id=group, generation_id=generation, member_id=member, group_instance_id=instance,
            protocol_type=kind, protocol_name=protocol,
            assignments=[dict(member_id=key, assignment=data) for key, data in (assignments or {}).items()],
        )  # fmt: skip

    async def heartbeat(
        self, what: str, group: str, member: str, generation: int, *, instance: str | None = None, version: int | None = None
    ) -> Any:
        return await self._ask(
            Key.HEARTBEAT, what, version, group_id=group, generation_id=generation, member_id=member, group_instance_id=instance
        )

    async def leave(
        self, what: str, group: str, *members: tuple[str, str | None], version: int | None = None, reason: str | None = None
    ) -> Any:
        named = [dict(member_id=key, group_instance_id=instance, reason=reason) for key, instance in members]
        return await self._ask(
            Key.LEAVE_GROUP, what, version, group_id=group, members=named, member_id=members[0][0] if members else ""
        )

    # Offsets

    async def commit(
        self, what: str, group: str, member: str = "", generation: int = -1, *, instance: str | None = None, topic: str = "t",
        partitions: tuple[int, ...] = (0,), offset: int = 5, epoch: int = -1, metadata: str | None = "", version: int | None = None,
    ) -> Any:  # fmt: skip
        parts = [
            dict(partition_index=index, committed_offset=offset, committed_leader_epoch=epoch, committed_metadata=metadata)
            for index in partitions
        ]
        return await self._ask(
            Key.OFFSET_COMMIT, what, version, group_id=group, generation_id_or_member_epoch=generation, member_id=member,
            group_instance_id=instance, topics=[self._topic(topic) | dict(partitions=parts)],
        )  # fmt: skip

    async def fetch(
        self, what: str, *groups: str, topics: Mapping[str, tuple[int, ...]] | None = None, version: int | None = None,
        stable: bool = False, member: str | None = None, epoch: int = -1,
    ) -> Any:  # fmt: skip
        asked = self.at.version(Key.OFFSET_FETCH) if version is None else version
        wanted: list[dict[str, Any]] | None = None
        if topics is not None:
            wanted = [self._topic(word) | dict(partition_indexes=parts) for word, parts in topics.items()]
        elif asked < 2:  # null is all of them from there on
            wanted = [self._topic(word) | dict(partition_indexes=(0, 1)) for word in self.ids]
        return await self._ask(
            Key.OFFSET_FETCH, what, version, group_id=groups[0], topics=wanted, require_stable=stable,
            groups=[dict(group_id=group, member_id=member, member_epoch=epoch, topics=wanted) for group in groups],
        )  # fmt: skip

    async def delete_offsets(self, what: str, group: str, topics: Mapping[str, tuple[int, ...]]) -> Any:
        wanted = [
            dict(name=self.at.name(word), partitions=[dict(partition_index=index) for index in parts])
            for word, parts in topics.items()
        ]
        return await self._ask(Key.OFFSET_DELETE, what, group_id=group, topics=wanted)

    # What administrators ask

    async def describe(self, what: str, *groups: str, version: int | None = None) -> Any:
        return await self._ask(Key.DESCRIBE_GROUPS, what, version, groups=groups, include_authorized_operations=False)

    async def list(
        self, what: str, prefix: str, *, states: tuple[str, ...] = (), types: tuple[str, ...] = (), version: int | None = None
    ) -> Any:
        def ours(answer: Any) -> Any:
            return dataclasses.replace(
                answer, groups=tuple(group for group in answer.groups if group.group_id.startswith(prefix))
            )

        return await self._ask(Key.LIST_GROUPS, what, version, states_filter=states, types_filter=types, only=ours)

    async def delete(self, what: str, *groups: str) -> Any:
        return await self._ask(Key.DELETE_GROUPS, what, groups_names=groups)

    # The new protocol (KIP-848)

    async def beat(
        self, what: str, group: str, member: str = "m", epoch: int = 0, *, instance: str | None = None, rack: str | None = None,
        topics: tuple[str, ...] | None = None, regex: str | None = None, assignor: str | None = None, rebalance_ms: int | None = None,
        owned: Parts | None = None, counts_only: bool = False,
    ) -> Any:  # fmt: skip
        """A heartbeat; one at epoch 0 says all there is to say.  `counts_only`: which partitions come is the broker's choice."""
        if epoch == 0:
            topics = ("t",) if topics is None and regex is None else topics
            owned = {} if owned is None else owned
            rebalance_ms = 60_000 if rebalance_ms is None else rebalance_ms
        parts = None if owned is None else [dict(topic_id=self.ids[word], partitions=indexes) for word, indexes in owned.items()]

        def shown(answer: Any) -> Any:
            if answer.assignment is None:
                return answer
            return dataclasses.replace(answer, assignment=_parts_shown(answer.assignment, counts_only=counts_only))

        return await self._ask(
            Key.CONSUMER_GROUP_HEARTBEAT, what, group_id=group, member_id=member, member_epoch=epoch, instance_id=instance, rack_id=rack,
            rebalance_timeout=-1 if rebalance_ms is None else rebalance_ms, subscribed_topic_regex=regex, server_assignor=assignor,
            subscribed_topic_names=None if topics is None else [self.at.name(word) for word in topics], topic_partitions=parts, only=shown,
        )  # fmt: skip

    def parts(self, answer: Any) -> Parts:
        """What a heartbeat was answered that the member has."""
        words = {topic_id: word for word, topic_id in self.ids.items()}
        return {words[part.topic_id]: tuple(sorted(part.partitions)) for part in answer.assignment.topic_partitions}

    async def describe_new(self, what: str, *groups: str) -> Any:
        """ConsumerGroupDescribe; how many partitions each member has, not which."""

        def shown(answer: Any) -> Any:
            return dataclasses.replace(
                answer,
                groups=tuple(
                    dataclasses.replace(group, members=tuple(map(_member_shown, group.members))) for group in answer.groups
                ),
            )

        return await self._ask(
            Key.CONSUMER_GROUP_DESCRIBE, what, group_ids=groups, include_authorized_operations=False, only=shown
        )

    async def until_assignable(self) -> None:
        """Until the coordinator knows the topics: on a busy machine Kafka's hears of them after those who read them."""
        names, probe = (
            [self.at.name(word) for word in self.ids],
            dict(group_id=self.at.name("probe"), member_id="p", instance_id=None),
        )
        joins = dict(probe, member_epoch=0, rebalance_timeout=60_000, subscribed_topic_names=names, topic_partitions=())
        await self.at.until(
            lambda answer: answer.assignment is not None and len(answer.assignment.topic_partitions) == len(names),
            Key.CONSUMER_GROUP_HEARTBEAT, version=1, **joins,
        )  # fmt: skip
        leaves = dict(probe, member_epoch=-1, rebalance_timeout=-1, subscribed_topic_names=None, topic_partitions=None)
        await self.at.ask_quietly(Key.CONSUMER_GROUP_HEARTBEAT, version=1, **leaves)

    async def until_new(self, group: str, members: int) -> None:
        """Until a group of the new protocol has so many members."""
        await self.at.until(
            lambda answer: len(answer.groups[0].members) == members,
            Key.CONSUMER_GROUP_DESCRIBE, version=1, group_ids=(group,),
        )  # fmt: skip

    # Longer moves

    async def until(self, group: str, state: str, members: int | None = None) -> None:
        """Until the group is in `state`, with so many members."""
        await self.at.until(
            lambda answer: answer.groups[0].group_state == state and members in (None, len(answer.groups[0].members)),
            Key.DESCRIBE_GROUPS, version=5, groups=(group,),
        )  # fmt: skip

    async def stable(self, group: str, *instances: str | None, **options: Any) -> list[str]:
        """A stable group of new members, one for each of `instances` (None: a dynamic one); what it takes is not compared."""
        ids: list[str] = []
        answers: list[Any] = []
        for instance in instances:
            tasks = [self.later(self.joined("", group, instance=instance, **options))]
            if ids:
                await self.until(group, "PreparingRebalance", len(ids) + 1)
                tasks += [
                    self.later(self.join("", group, known, instance=other, **options))
                    for known, other in zip(ids, instances, strict=False)
                ]
            answers = await asyncio.gather(*tasks)
            ids = [answer.member_id for answer in [*answers[1:], answers[0]]]
        leader, generation, protocol = answers[0].leader, answers[0].generation_id, answers[0].protocol_name
        assert {answer.error_code.name for answer in answers} == {"none"}
        plan = {member: b"for %d" % number for number, member in enumerate(ids)}
        syncs = [
            self.later(
                self.sync(
                    "", group, member, generation, instance=instance, kind=None, protocol=protocol, version=3,
                    assignments=plan if member == leader else None,
                )
            )
            for member, instance in zip(ids, instances, strict=True)
        ]  # fmt: skip
        await asyncio.gather(*syncs)
        return ids
