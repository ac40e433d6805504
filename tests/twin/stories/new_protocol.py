"""Groups of the new protocol (KIP-848) in every version.  What several members do is in tests/clients/test_new_protocol_like_kafka.py, where targets are
computed at once."""

from __future__ import annotations

from typing import Any

from tests.twin.keys import Key
from tests.twin.telling import Side, story

BEAT, DESCRIBE = Key.CONSUMER_GROUP_HEARTBEAT, Key.CONSUMER_GROUP_DESCRIBE


@story(BEAT, DESCRIBE)
async def a_group_of_the_new_protocol_lives(at: Side) -> None:
    group, topic = at.name("g"), await at.topic("t", partitions=2)
    found = dict(key=group, key_type=0, coordinator_keys=(group,))
    await at.until(lambda answer: answer.coordinators[0].error_code.name == "none", Key.FIND_COORDINATOR, version=4, **found)

    async def beat(what: str, epoch: int, member: str = "m", **fields: Any) -> Any:
        said = dict(group_id=group, member_id=member, member_epoch=epoch, rebalance_timeout=-1, topic_partitions=None)
        return await at.ask(BEAT, what, **{**said, **fields})

    async def describe(what: str, *groups: str, operations: bool = False) -> None:
        await at.ask(DESCRIBE, what, group_ids=groups or (group,), include_authorized_operations=operations)

    everything = dict(rebalance_timeout=60_000, subscribed_topic_names=(at.name("t"),), topic_partitions=())
    await describe("nobody is there")
    await beat("nobody is there", 1)
    await beat("no timeout", 0, topic_partitions=())
    await beat("an assignor that nobody knows", 0, **everything, server_assignor="sticky")
    epoch = (await beat("it joins", 0, **everything)).member_epoch
    await describe("with one member", operations=True)
    await beat("it lives", epoch)
    owned = (dict(topic_id=topic, partitions=(0, 1)),)
    await beat("it says what it has", epoch, topic_partitions=owned)
    await beat("an epoch of the future", epoch + 1)
    await beat("a member that nobody knows", epoch, "n")
    await beat("it leaves", -1)
    await describe("empty")
    await describe("several", group, at.name("unknown"))
