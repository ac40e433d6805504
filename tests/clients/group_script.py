"""A script of group requests at a broker, and what it answers in words that two brokers can share: member ids by who came first.

Invariants: requests that wait have connections of their own; what is told stands in the order in which it was asked; ids, addresses and times
never stand in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

from hotlog.wire import apis
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client

RANGE = (("range", b"r"), ("sticky", b"s"))
SYNC, HEARTBEAT, LEAVE, JOIN, DESCRIBE, LIST, COMMIT, FETCH, DELETE, OFFSET_DELETE = 14, 12, 13, 11, 15, 16, 8, 9, 42, 47
METADATA, BEAT, CONSUMER_DESCRIBE = 3, 68, 69
AGAIN = ("coordinator_not_available", "coordinator_load_in_progress", "not_coordinator")


class Script:
    """One broker, and what it said so far."""

    def __init__(self, bootstrap: str) -> None:
        self._host, _, port = bootstrap.rpartition(":")
        self._port = int(port)
        self._clients: list[Client] = []
        self._idle: list[Client] = []
        self._ids: dict[str, None] = {}
        self._told: list[tuple[Any, ...]] = []
        self._topics: dict[Any, str] = {}  # names by id

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def call(self, request: Any) -> Any:
        client = self._idle.pop() if self._idle else await self._connected()
        async with asyncio.timeout(PATIENCE_S):
            answer = await client.call(request)
        self._idle.append(client)
        return answer

    async def _connected(self) -> Client:
        client = Client(*await asyncio.open_connection(self._host, self._port))
        self._clients.append(client)
        return client

    def _asked(self, what: str) -> int:
        """Keeps the place of an answer."""
        self._told.append((what,))
        return len(self._told) - 1

    def _tell(self, place: int, *words: Any) -> None:
        self._told[place] = (*self._told[place], *words)

    def _id(self, member_id: str) -> str:
        if member_id.count("-") > 3 or len(member_id) == 22:  # a UUID, or one as Kafka writes it
            self._ids[member_id] = None
        return member_id

    def said(self) -> list[tuple[Any, ...]]:
        """What was told, members named by who came first."""
        names: dict[str, str] = {}

        def named(word: Any) -> Any:
            if isinstance(word, str) and word in self._ids:
                return names.setdefault(word, f"m{len(names) + 1}")
            if isinstance(word, list):
                return sorted((named(one) for one in word), key=repr)
            return tuple(named(one) for one in word) if isinstance(word, tuple) else word

        return [named(entry) for entry in self._told]

    # Requests; each tells what came back, and gives what the next ones need

    async def join(
        self, what: str, group: str, member: str = "", *, instance: str | None = None, version: int = 9, session_ms: int = 30_000,
        rebalance_ms: int = 60_000, kind: str = "consumer", protocols: tuple[tuple[str, bytes], ...] = RANGE,
        reason: str | None = None,
    ) -> Any:  # fmt: skip
        place = self._asked(what)
        shapes = apis.requests(JOIN, version)
        answer = await self.call(
            shapes.JoinGroupRequest(
                group_id=group, session_timeout=timedelta(milliseconds=session_ms), rebalance_timeout=timedelta(milliseconds=rebalance_ms),
                member_id=member, group_instance_id=instance, protocol_type=kind, reason=reason,
                protocols=tuple(shapes.JoinGroupRequestProtocol(name=name, metadata=data) for name, data in protocols),
            )
        )  # fmt: skip
        members = list((self._id(m.member_id), getattr(m, "group_instance_id", None), m.metadata) for m in answer.members)
        self._tell(
            place, answer.error_code.name, answer.generation_id, getattr(answer, "protocol_type", None), answer.protocol_name,
            self._id(answer.leader), getattr(answer, "skip_assignment", None), self._id(answer.member_id), members,
        )  # fmt: skip
        return answer

    async def joined(self, what: str, group: str, **options: Any) -> Any:
        """A member that takes the id it is given, if it is asked to."""
        answer = await self.join(what, group, **options)
        if answer.error_code.name == "member_id_required":
            answer = await self.join(what, group, answer.member_id, **options)
        return answer

    async def sync(
        self, what: str, group: str, member: str, generation: int, *, instance: str | None = None, version: int = 5,
        kind: str | None = "consumer", protocol: str | None = "range", assignments: dict[str, bytes] | None = None,
    ) -> Any:  # fmt: skip
        place = self._asked(what)
        shapes = apis.requests(SYNC, version)
        given = tuple(
            shapes.SyncGroupRequestAssignment(member_id=key, assignment=data) for key, data in (assignments or {}).items()
        )
        answer = await self.call(
            shapes.SyncGroupRequest(
                group_id=group, generation_id=generation, member_id=member, group_instance_id=instance, protocol_type=kind,
                protocol_name=protocol, assignments=given,
            )
        )  # fmt: skip
        known = getattr(answer, "protocol_type", None), getattr(answer, "protocol_name", None)
        self._tell(place, answer.error_code.name, *known, bytes(answer.assignment))
        return answer

    async def heartbeat(
        self, what: str, group: str, member: str, generation: int, *, instance: str | None = None, version: int = 4
    ) -> None:
        place = self._asked(what)
        shapes = apis.requests(HEARTBEAT, version)
        answer = await self.call(
            shapes.HeartbeatRequest(group_id=group, generation_id=generation, member_id=member, group_instance_id=instance)
        )
        self._tell(place, answer.error_code.name)

    async def leave(
        self, what: str, group: str, *members: tuple[str, str | None], version: int = 5, reason: str | None = None
    ) -> None:
        place = self._asked(what)
        shapes = apis.requests(LEAVE, version)
        if version < 3:
            answer = await self.call(shapes.LeaveGroupRequest(group_id=group, member_id=members[0][0]))
        else:
            named = tuple(shapes.MemberIdentity(member_id=key, group_instance_id=i, reason=reason) for key, i in members)
            answer = await self.call(shapes.LeaveGroupRequest(group_id=group, members=named))
        gone = [(self._id(m.member_id), m.group_instance_id, m.error_code.name) for m in getattr(answer, "members", ())]
        self._tell(place, answer.error_code.name, gone)

    async def commit(
        self, what: str, group: str, member: str = "", generation: int = -1, *, instance: str | None = None, topic: str = "t",
        partitions: tuple[int, ...] = (0,), offset: int = 5, metadata: str = "", version: int = 9,
    ) -> None:  # fmt: skip
        place = self._asked(what)
        shapes = apis.requests(COMMIT, version)
        parts = tuple(
            shapes.OffsetCommitRequestPartition(
                partition_index=index, committed_offset=offset, committed_leader_epoch=-1, committed_metadata=metadata
            )
            for index in partitions
        )
        answer = await self.call(
            shapes.OffsetCommitRequest(
                group_id=group, generation_id_or_member_epoch=generation, member_id=member, group_instance_id=instance,
                topics=(shapes.OffsetCommitRequestTopic(name=topic, partitions=parts),),
            )
        )  # fmt: skip
        self._tell(place, [(part.partition_index, part.error_code.name) for part in answer.topics[0].partitions])

    async def fetch(
        self, what: str, *groups: str, topics: dict[str, tuple[int, ...]] | None = None, version: int = 9,
        member: str | None = None, epoch: int = -1,
    ) -> None:  # fmt: skip
        place = self._asked(what)
        shapes = apis.requests(FETCH, version)
        wanted = None
        if topics is not None:
            wanted = tuple(shapes.OffsetFetchRequestTopics(name=name, partition_indexes=parts) for name, parts in topics.items())
        asked = tuple(
            shapes.OffsetFetchRequestGroup(group_id=group, member_id=member, member_epoch=epoch, topics=wanted)
            for group in groups
        )
        answer = await self.call(shapes.OffsetFetchRequest(groups=asked, require_stable=False))
        told = []
        for group in answer.groups:
            found = list(
                (topic.name, part.partition_index, part.committed_offset, part.metadata, part.error_code.name)
                for topic in group.topics
                for part in topic.partitions
            )
            told.append((group.group_id, group.error_code.name, found))
        self._tell(place, *told)

    async def describe(self, what: str, *groups: str, version: int = 6) -> Any:
        place = self._asked(what)
        shapes = apis.requests(DESCRIBE, version)
        answer = await self.call(shapes.DescribeGroupsRequest(groups=groups, include_authorized_operations=False))
        told = []
        for group in answer.groups:
            members = list(
                (self._id(m.member_id), m.group_instance_id, m.client_id, bytes(m.member_metadata), bytes(m.member_assignment))
                for m in group.members
            )
            told.append(
                (group.group_id, group.error_code.name, group.group_state, group.protocol_type, group.protocol_data, members)
            )
        self._tell(place, told)
        return answer

    async def until(self, group: str, state: str, members: int | None = None) -> None:
        """Until the group is in `state`, with so many members."""
        shapes = apis.requests(DESCRIBE, 5)
        give_up = time.monotonic() + PATIENCE_S
        while True:
            answer = await self.call(shapes.DescribeGroupsRequest(groups=(group,), include_authorized_operations=False))
            found = answer.groups[0]
            if found.group_state == state and members in (None, len(found.members)):
                return
            assert time.monotonic() < give_up, f"{group} stays {found.group_state} with {len(found.members)} members"
            await asyncio.sleep(0.02)

    async def list(
        self, what: str, prefix: str, *, states: tuple[str, ...] = (), types: tuple[str, ...] = (), version: int = 5
    ) -> None:
        place = self._asked(what)
        answer = await self.call(apis.requests(LIST, version).ListGroupsRequest(states_filter=states, types_filter=types))
        groups = list(
            (group.group_id, group.protocol_type, getattr(group, "group_state", None), getattr(group, "group_type", None))
            for group in answer.groups
            if group.group_id.startswith(prefix)
        )
        self._tell(place, answer.error_code.name, groups)

    async def delete(self, what: str, *groups: str) -> None:
        place = self._asked(what)
        answer = await self.call(apis.requests(DELETE, 2).DeleteGroupsRequest(groups_names=groups))
        self._tell(place, list((result.group_id, result.error_code.name) for result in answer.results))

    async def delete_offsets(self, what: str, group: str, topics: dict[str, tuple[int, ...]]) -> None:
        place = self._asked(what)
        shapes = apis.requests(OFFSET_DELETE, 0)
        wanted = tuple(
            shapes.OffsetDeleteRequestTopic(
                name=name, partitions=tuple(shapes.OffsetDeleteRequestPartition(partition_index=index) for index in parts)
            )
            for name, parts in topics.items()
        )
        answer = await self.call(shapes.OffsetDeleteRequest(group_id=group, topics=wanted))
        found = list((t.name, p.partition_index, p.error_code.name) for t in answer.topics for p in t.partitions)
        self._tell(place, answer.error_code.name, found)

    # The new protocol (KIP-848)

    async def know_topics(self) -> None:
        """Learn the ids of all topics."""
        shapes = apis.requests(METADATA, 12)
        answer = await self.call(
            shapes.MetadataRequest(topics=None, allow_auto_topic_creation=False, include_topic_authorized_operations=False)
        )
        self._topics = {topic.topic_id: topic.name for topic in answer.topics}

    def _named(self, parts: Any) -> dict[str, tuple[int, ...]]:
        return {self._topics[part.topic_id]: tuple(sorted(part.partitions)) for part in parts}

    async def beat(
        self, what: str, group: str, member: str = "m", epoch: int = 0, *, instance: str | None = None, rack: str | None = None,
        topics: tuple[str, ...] | None = None, regex: str | None = None, assignor: str | None = None, rebalance_ms: int | None = None,
        owned: dict[str, tuple[int, ...]] | None = None, version: int = 1, counts_only: bool = False,
    ) -> Any:  # fmt: skip
        """A heartbeat; one at epoch 0 says all there is to say.  `counts_only`: which partitions come is the broker's choice."""
        place = self._asked(what)
        shapes = apis.requests(BEAT, version)
        if epoch == 0:
            topics = ("t",) if topics is None and regex is None else topics
            owned = {} if owned is None else owned
            rebalance_ms = 60_000 if rebalance_ms is None else rebalance_ms
        ids = {name: topic_id for topic_id, name in self._topics.items()}
        parts = None if owned is None else tuple(
            shapes.TopicPartitions(topic_id=ids[name], partitions=indexes) for name, indexes in owned.items()
        )  # fmt: skip
        answer = await self.call(
            shapes.ConsumerGroupHeartbeatRequest(
                group_id=group, member_id=member, member_epoch=epoch, instance_id=instance, rack_id=rack,
                rebalance_timeout=timedelta(milliseconds=-1 if rebalance_ms is None else rebalance_ms),
                subscribed_topic_names=topics, subscribed_topic_regex=regex, server_assignor=assignor, topic_partitions=parts,
            )
        )  # fmt: skip
        held = None if answer.assignment is None else self._named(answer.assignment.topic_partitions)
        shown: Any = None if held is None else {name: len(held[name]) if counts_only else held[name] for name in sorted(held)}
        interval_ms = answer.heartbeat_interval // timedelta(milliseconds=1)
        member_id = answer.member_id if answer.member_id is None else self._id(answer.member_id)
        self._tell(place, answer.error_code.name, answer.error_message, member_id, answer.member_epoch, interval_ms, str(shown))
        return answer

    def parts(self, answer: Any) -> dict[str, tuple[int, ...]]:
        """What a heartbeat was answered that the member has."""
        return self._named(answer.assignment.topic_partitions)

    async def consumer_describe(self, what: str, *groups: str, version: int = 1) -> Any:
        place = self._asked(what)
        shapes = apis.requests(CONSUMER_DESCRIBE, version)
        answer = await self.call(shapes.ConsumerGroupDescribeRequest(group_ids=groups, include_authorized_operations=False))
        told = []
        for group in answer.groups:
            members = list(
                (
                    self._id(m.member_id), m.instance_id, m.rack_id, m.member_epoch, m.client_id, tuple(sorted(m.subscribed_topic_names)),
                    m.subscribed_topic_regex, sum(len(part.partitions) for part in m.assignment.topic_partitions),
                    sum(len(part.partitions) for part in m.target_assignment.topic_partitions), getattr(m, "member_type", None),
                )
                for m in group.members
            )  # fmt: skip
            told.append(
                (
                    group.group_id, group.error_code.name, group.error_message, group.group_state, group.group_epoch,
                    group.assignment_epoch, group.assignor_name, members,
                )
            )  # fmt: skip
        self._tell(place, told)
        return answer

    # Longer moves

    def later(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """A request that waits for others."""

        async def run() -> Any:
            return await work

        return asyncio.get_running_loop().create_task(run())

    async def stable(self, group: str, *instances: str | None, **options: Any) -> list[str]:
        """A stable group of new members, one for each of `instances` (None: a dynamic one); what it takes is not told."""
        told, ids = len(self._told), []
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
                self.sync("", group, member, generation, instance=instance, kind=None, protocol=protocol, version=3, assignments=plan if member == leader else None)
            )
            for member, instance in zip(ids, instances, strict=True)
        ]  # fmt: skip
        await asyncio.gather(*syncs)
        del self._told[told:]
        return ids
