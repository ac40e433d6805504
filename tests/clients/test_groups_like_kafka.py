"""Classic groups as a real Apache Kafka coordinates them: the same requests to both, answer for answer.

Static members (KIP-345, KIP-814), member ids (KIP-394), fencing, leaving with reasons (KIP-800), commits, and what administrators ask (KIP-518).

Invariants: both brokers have the same settings and are asked in the same order; where Hotlog differs on purpose it stands in DIFFERENCES.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.clients.conftest import not_here
from tests.clients.group_script import Script
from tests.clients.test_configs_like_kafka import create
from tests.tools.cache import ToolMissing
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import kafka_jars
from tests.tools.kafka_server import KafkaServer

SETTINGS = {
    "group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "1000", "group.max.size": "4",
    "offsets.topic.num.partitions": "4",
}  # fmt: skip
Story = Callable[[Script, str], Awaitable[None]]
STORIES: dict[str, Story] = {}


def story(function: Story) -> Story:
    STORIES[function.__name__] = function
    return function


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of a Kafka and a Hotlog, each with a topic `t` of two partitions."""
    folder = tmp_path_factory.mktemp("groups")
    try:
        kafka = KafkaServer(jars=kafka_jars(), folder=folder / "kafka", properties=SETTINGS)
        kafka.format()
        kafka.start()
        kafka.wait_ready()
    except ToolMissing as why:
        not_here("Apache Kafka", why)
    hotlog = HotlogServer(folder=folder / "hotlog", settings=SETTINGS)
    try:
        hotlog.start()
        found = {"kafka": kafka.bootstrap, "hotlog": hotlog.bootstrap}
        for bootstrap in found.values():
            assert create(bootstrap, "t", {}) == "none"
            asyncio.run(ready(bootstrap))
        yield found
    finally:
        hotlog.stop()
        kafka.stop()


async def ready(bootstrap: str) -> None:
    """Until every partition of __consumer_offsets is coordinated."""
    from hotlog.wire import apis

    script = Script(bootstrap)
    shapes = apis.requests(10, 4)
    for number in range(64):
        while True:
            found = await script.call(shapes.FindCoordinatorRequest(key_type=0, coordinator_keys=(f"g{number}",)))
            if found.coordinators[0].error_code.name == "none":
                await script.commit("", f"g{number}")
                if script.said()[-1][1][0][1] == "none":
                    break
            await asyncio.sleep(0.1)
    await script.close()


# Joining


@story
async def who_is_let_in(at: Script, g: str) -> None:
    await at.join("session too short", g, session_ms=999)
    await at.join("session too long", g, session_ms=1_800_001)
    await at.join("no protocols", g, protocols=())
    await at.join("no protocol type", g, kind="")
    await at.join("an id that nobody gave out", g, "nobody")
    await at.join("no group id", "")
    for version in (0, 1, 3, 4, 5, 9):
        await at.join(f"no id at version {version}", f"{g}-{version}", version=version)
    required = await at.join("an id is required", f"{g}-known")
    await at.join("another's id", f"{g}-known", required.member_id + "x")
    first = await at.join("the id is taken", f"{g}-known", required.member_id)
    await at.join("another kind", f"{g}-known", kind="connect")
    await at.join("no protocol in common", f"{g}-known", protocols=(("other", b""),))
    await at.join("an instance needs no id", f"{g}-static", instance="i")
    await at.join("the leader again, while it shall assign", f"{g}-known", first.member_id)
    await at.join("an instance id that is empty", f"{g}-empty", instance="")


@story
async def a_group_has_a_largest_size(at: Script, g: str) -> None:
    ids = await at.stable(g, None, None, "i", None)
    await at.join("a fifth, without an id", g)
    await at.join("a fifth, of an old client", g, version=3)
    await at.join("a fifth, static", g, instance="j")
    await at.join("one that is in", g, ids[1])
    await at.heartbeat("who is in stays", g, ids[3], 4)
    await at.join("a static one that comes back", g, instance="i")


@story
async def reasons_change_nothing(at: Script, g: str) -> None:
    required = await at.join("join", g, reason="first")
    joined = await at.join("join", g, required.member_id, reason="é" * 200)
    await at.sync("sync", g, joined.member_id, 1, assignments={joined.member_id: b"a"})
    await at.leave("leave", g, (joined.member_id, None), reason="the consumer is being closed")
    await at.leave("leave again", g, (joined.member_id, None), reason="")
    await at.describe("then", g)


# Static members


@story
async def a_static_member_comes_back(at: Script, g: str) -> None:
    old, other = await at.stable(g, "i1", "i2")
    back = await at.join("the leader", g, instance="i1")
    await at.sync("its assignment", g, back.member_id, 2, instance="i1", assignments={back.member_id: b"new"})
    await at.heartbeat("the old process", g, old, 2, instance="i1")
    await at.heartbeat("the old process without its instance", g, old, 2)
    await at.heartbeat("the new one", g, back.member_id, 2, instance="i1")
    await at.heartbeat("the new one without its instance", g, back.member_id, 2)
    await at.heartbeat("as another instance", g, back.member_id, 2, instance="i2")
    await at.heartbeat("as an unknown instance", g, back.member_id, 2, instance="i9")
    await at.sync("the old process", g, old, 2, instance="i1")
    await at.join("the old process", g, old, instance="i1")
    await at.commit("the old process", g, old, 2, instance="i1")
    await at.commit("the old process without its instance", g, old, 2)
    await at.commit("the new one", g, back.member_id, 2, instance="i1")
    await at.commit("as an unknown instance", g, back.member_id, 2, instance="i9")
    follower = await at.join("the follower", g, instance="i2", protocols=(("range", b"R"), ("sticky", b"S")))
    await at.sync("its assignment", g, follower.member_id, 2, instance="i2")
    await at.heartbeat("the group is as it was", g, back.member_id, 2, instance="i1")
    for version in (5, 8):
        leader = await at.join(f"the leader at version {version}", g, instance="i1", version=version)
        await at.heartbeat("and", g, leader.member_id, 2, instance="i1")
    await at.describe("and all of it", g)
    await at.leave("both, by their instances", g, ("", "i1"), ("", "i2"))
    await at.describe("empty", g)
    del other


@story
async def a_static_member_comes_back_with_other_protocols(at: Script, g: str) -> None:
    (first,) = await at.stable(g, "i1")
    back = await at.join("the same chosen, others beside it", g, instance="i1", protocols=(("range", b"x"),))
    await at.heartbeat("as it was", g, back.member_id, 1, instance="i1")
    back = await at.join("another chosen", g, instance="i1", protocols=(("sticky", b"x"),))
    await at.describe("then", g)
    await at.sync("then", g, back.member_id, back.generation_id, instance="i1", protocol="sticky")
    del first


@story
async def a_static_member_comes_back_while_others_join(at: Script, g: str) -> None:
    first, second = await at.stable(g, "i1", "i2")
    third = at.later(at.join("a third", g, instance="i3"))
    await at.until(g, "PreparingRebalance", 3)
    await at.heartbeat("it shall join", g, first, 2, instance="i1")
    back = at.later(at.join("the first, new", g, instance="i1"))
    await at.until(g, "PreparingRebalance", 3)
    await asyncio.sleep(0.3)
    await at.heartbeat("the old one", g, first, 2, instance="i1")
    again = at.later(at.join("the first, once more", g, instance="i1"))
    overtaken = await back
    await at.join("the second", g, second, instance="i2")
    await asyncio.gather(third, again)
    await at.sync("who was overtaken", g, overtaken.member_id, 3, instance="i1")
    leader = (await third).leader
    late = await at.join("the second, new, while all wait for the leader", g, instance="i2")
    await at.describe("then", g)
    del leader, late


@story
async def instances_and_ids_that_do_not_fit(at: Script, g: str) -> None:
    static, dynamic = await at.stable(g, "i1", None)
    await at.join("a dynamic id as an unknown instance", g, dynamic, instance="i9")
    await at.join("a dynamic id as a known instance", g, dynamic, instance="i1")
    await at.join("an unknown id as a known instance", g, "nobody", instance="i1")
    await at.join("an unknown id as an unknown instance", g, "nobody", instance="i9")
    await at.sync("a dynamic id as an unknown instance", g, dynamic, 2, instance="i9")
    await at.sync("a dynamic id as a known instance", g, dynamic, 2, instance="i1")
    await at.leave("with another's id", g, (dynamic, "i1"))
    await at.leave("with an unknown id", g, ("nobody", "i1"))
    await at.leave("an unknown instance", g, ("", "i9"))
    await at.leave("an unknown instance and a known id", g, (dynamic, "i9"))
    await at.leave("nobody", g, ("", None))
    await at.leave("no members", g)
    await at.leave("the one twice, and the other", g, (static, "i1"), ("", "i1"), (dynamic, None))


@story
async def a_static_member_whose_session_ends_is_gone(at: Script, g: str) -> None:
    (old,) = await at.stable(g, "i1", session_ms=1_000)
    await at.until(g, "Empty")
    await at.heartbeat("too late", g, old, 1, instance="i1")
    await at.describe("gone", g)
    await at.join("anew", g, instance="i1")


# Generations, states


@story
async def every_request_in_every_state(at: Script, g: str) -> None:
    async def ask_all(state: str, member: str, generation: int) -> None:
        await at.heartbeat(f"{state}: heartbeat", g, member, generation)
        await at.heartbeat(f"{state}: heartbeat, older", g, member, generation - 1)
        await at.heartbeat(f"{state}: heartbeat, newer", g, member, generation + 1)
        await at.heartbeat(f"{state}: heartbeat of nobody", g, "nobody", generation)
        await at.sync(f"{state}: sync, older", g, member, generation - 1)
        await at.sync(f"{state}: sync of nobody", g, "nobody", generation)
        await at.sync(f"{state}: sync, another kind", g, member, generation, kind="connect")
        await at.sync(f"{state}: sync, another protocol", g, member, generation, protocol="sticky")
        await at.commit(f"{state}: commit", g, member, generation)
        await at.commit(f"{state}: commit, older", g, member, generation - 1)
        await at.commit(f"{state}: commit of nobody", g, "nobody", generation)
        await at.commit(f"{state}: commit of a simple consumer", g)
        await at.commit(f"{state}: commit of a member without a generation", g, member, -1)
        await at.leave(f"{state}: nobody leaves", g, ("nobody", None))
        await at.leave(f"{state}: nobody leaves, an old client", g, ("nobody", None), version=2)
        await at.describe(state, g)
        await at.describe(state, g, version=5)
        await at.list(state, g)
        await at.delete(f"{state}: delete", g)
        await at.delete_offsets(f"{state}: delete offsets", g, {"t": (0,)})

    await ask_all("unknown", "nobody", 1)
    await at.commit("a simple consumer", g)
    await ask_all("simple", "nobody", 1)
    await at.commit("a simple consumer again", g)
    required = await at.join("given out", g)
    await at.describe("given out", g)
    await at.heartbeat("given out: heartbeat", g, required.member_id, -1)
    await at.commit("given out: commit", g, required.member_id, -1)
    first = await at.join("joins", g, required.member_id)
    await at.until(g, "CompletingRebalance")
    await ask_all("completing", first.member_id, 1)
    await at.sync("assigned", g, first.member_id, 1, assignments={first.member_id: b"all", "nobody": b"x"})
    await at.until(g, "Stable")
    await ask_all("stable", first.member_id, 1)
    second = at.later(at.joined("a second", g))
    await at.until(g, "PreparingRebalance", 2)
    await ask_all("preparing", first.member_id, 1)
    await at.sync("preparing: sync", g, first.member_id, 1)
    await at.join("the first rejoins", g, first.member_id)
    await second
    await at.leave("both leave", g, (first.member_id, None), ((await second).member_id, None))
    await at.until(g, "Empty")
    await ask_all("empty", first.member_id, 3)
    await at.delete("deleted", g, g, f"{g}-unknown", "")
    await at.describe("deleted", g)
    await at.fetch("deleted", g)


@story
async def the_leader_and_followers_ask_again(at: Script, g: str) -> None:
    ids = await at.stable(g, None, None)
    leader = ids[0]
    await at.join("a follower as it was", g, ids[1])
    await at.sync("it gets the same", g, ids[1], 2)
    changed = at.later(at.join("a follower with another subscription", g, ids[1], protocols=(("range", b"other"),)))
    await at.until(g, "PreparingRebalance")
    await at.join("the leader", g, leader)
    await changed
    waiting = at.later(at.sync("the follower waits", g, ids[1], 3))
    await asyncio.sleep(0.3)
    await at.sync("the leader assigns", g, leader, 3, assignments={ids[1]: b"only the other"})
    await waiting
    await at.describe("then", g)
    await at.join("a follower of an old client as it was", g, ids[1], version=3, protocols=(("range", b"other"),))


@story
async def who_does_not_rejoin_is_gone(at: Script, g: str) -> None:
    ids = await at.stable(g, None, "i", rebalance_ms=1_500)
    third = at.later(at.joined("a third", g, rebalance_ms=1_500))
    await at.until(g, "PreparingRebalance", 3)
    await third
    await at.heartbeat("the first", g, ids[0], 3)
    await at.heartbeat("the static one keeps its place", g, ids[1], 3, instance="i")
    await at.describe("then", g)


# Offsets


@story
async def offsets_are_told(at: Script, g: str) -> None:
    await at.fetch("unknown group", g)
    await at.fetch("unknown group, named", g, topics={"t": (0, 7), "unknown": (0,)})
    await at.commit("committed", g, partitions=(0, 0), metadata="é")
    await at.commit("no such partition", g, partitions=(7, -1, 0))
    await at.commit("no such topic", g, topic="unknown")
    await at.commit("too much said", g, metadata="x" * 5_000)
    await at.commit("negative", g, offset=-5)
    await at.commit("no group id", "", offset=1)
    await at.fetch("all", g)
    await at.fetch("named", g, topics={"t": (0, 7), "unknown": (0,)})
    await at.fetch("several groups", g, f"{g}-other")
    await at.fetch("no group id", "")
    await at.delete_offsets("unknown group", f"{g}-other", {"t": (0,)})
    await at.delete_offsets("some", g, {"t": (0, 7), "unknown": (0,)})
    await at.fetch("after", g)
    await at.describe("nothing is left", g)


@story
async def offsets_of_a_subscribed_topic_stay(at: Script, g: str) -> None:
    subscription = b"\0\1\0\0\0\1\0\1t\xff\xff\xff\xff\0\0\0\0"
    ids = await at.stable(g, None, protocols=(("range", subscription),))
    await at.commit("committed", g, ids[0], 1)
    await at.delete_offsets("subscribed", g, {"t": (0,), "unknown": (0,)})
    await at.fetch("it stays", g)
    await at.delete("not empty", g)
    await at.leave("it leaves", g, (ids[0], None))
    await at.delete_offsets("not subscribed any more", g, {"t": (0,)})
    await at.fetch("gone", g)


# Administration


@story
async def groups_are_listed_by_state_and_type(at: Script, g: str) -> None:
    await at.commit("a simple one", f"{g}-simple")
    await at.stable(f"{g}-stable", None)
    connect = await at.stable(f"{g}-connect", None, kind="connect", protocols=(("default", b""),))
    await at.join("completing", f"{g}-completing", version=3)
    await at.leave("empty", f"{g}-connect", (connect[0], None))
    for states in (
        ("Stable",),
        ("stable",),
        ("EMPTY", "Stable"),
        ("Nonsense",),
        ("Dead",),
        ("CompletingRebalance",),
        ("Assigning",),
    ):
        await at.list(f"states {states}", g, states=states)
    for types in (("classic",), ("Classic",), ("consumer",), ("nonsense",), ("consumer", "classic"), ("share",)):
        await at.list(f"types {types}", g, types=types)
    await at.list("both", g, states=("Stable",), types=("classic",))
    await at.list("both, none fits", g, states=("Stable",), types=("consumer",))
    for version in (0, 3, 4):
        await at.list(f"version {version}", g, version=version, states=("Stable",) if version >= 4 else ())
    await at.describe("several, one unknown, one without a name", f"{g}-simple", f"{g}-unknown", "")


DIFFERENCES: dict[tuple[str, str], str] = {}


@pytest.mark.parametrize("name", list(STORIES))
def test_a_story_is_told_alike(name: str, brokers: dict[str, str]) -> None:
    group = f"g-{uuid.uuid4().hex[:8]}"

    async def perform(bootstrap: str) -> list[tuple[Any, ...]]:
        script = Script(bootstrap)
        try:
            await STORIES[name](script, group)
        finally:
            await script.close()
        return script.said()

    said = {broker: asyncio.run(perform(bootstrap)) for broker, bootstrap in brokers.items()}
    assert [entry[0] for entry in said["hotlog"]] == [entry[0] for entry in said["kafka"]]
    other = [
        (ours, theirs)
        for ours, theirs in zip(said["hotlog"], said["kafka"], strict=True)
        if ours != theirs and (name, ours[0]) not in DIFFERENCES
    ]
    assert other == [], "\n".join(f"hotlog {ours}\nkafka  {theirs}" for ours, theirs in other)
