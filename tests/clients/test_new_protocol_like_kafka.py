"""Groups of the new protocol (KIP-848) as a real Apache Kafka coordinates them: the same requests to both, answer for answer.

Joining, fencing, reconciliation, static members, expressions, commits by epoch, leaving, both ways of migration, and what administrators ask.

Invariants: as tests/clients/test_groups_like_kafka.py; where the broker chooses which partitions a member gets, their number is compared.
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
from tests.clients.test_groups_like_kafka import ready
from tests.tools.cache import ToolMissing
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import kafka_jars
from tests.tools.kafka_server import KafkaServer

SETTINGS = {
    "group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "1000", "offsets.topic.num.partitions": "4",
    "group.consumer.assignment.interval.ms": "0", "group.consumer.max.size": "4", "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "20000", "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "500",
}  # fmt: skip
Story = Callable[[Script, str], Awaitable[None]]
STORIES: dict[str, Story] = {}
SUBSCRIPTION = b"\0\1\0\0\0\1\0\1t\xff\xff\xff\xff\0\0\0\0"


def story(function: Story) -> Story:
    STORIES[function.__name__] = function
    return function


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of a Kafka and a Hotlog, each with topics `t` and `u` of two partitions."""
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
            for name in ("t", "u"):
                assert create(bootstrap, name, {}, 2) == "none"
            asyncio.run(ready(bootstrap))
        yield found
    finally:
        hotlog.stop()
        kafka.stop()


# Joining


@story
async def one_member_comes_and_goes(at: Script, g: str) -> None:
    await at.beat("nobody is there", g, epoch=1, owned={})
    joined = await at.beat("joins", g)
    await at.consumer_describe("one", g)
    await at.list("one", g)
    await at.beat("again", g, epoch=joined.member_epoch)
    await at.beat("says what it has", g, epoch=joined.member_epoch, owned={"t": (0, 1)})
    await at.beat("says all", g, epoch=joined.member_epoch, topics=("t",), owned={"t": (0, 1)}, rebalance_ms=60_000)
    await at.beat("joins again", g)
    await at.beat("leaves", g, epoch=-1)
    await at.consumer_describe("empty", g)
    await at.list("empty", g)
    await at.beat("beats though it left", g, epoch=joined.member_epoch)
    await at.beat("leaves again", g, epoch=-1)
    await at.delete("deleted", g)
    await at.consumer_describe("deleted", g, f"{g}-unknown", "")


@story
async def what_is_not_taken(at: Script, g: str) -> None:
    await at.beat("no member id", g, "")
    await at.beat("no group id", "", "m")
    await at.beat("an empty instance", g, instance="")
    await at.beat("an empty rack", g, rack="")
    await at.beat("no rebalance timeout", g, rebalance_ms=-1)
    await at.beat("partitions at once", g, owned={"t": (0,)})
    await at.beat("an unknown assignor", g, assignor="sticky")
    await at.beat("an epoch that there is not", g, epoch=-3)
    await at.beat("static without an instance", g, epoch=-2)
    await at.beat("no member id to leave", g, "", epoch=-1)
    await at.beat("no expression", g, topics=(), regex="(")
    await at.consumer_describe("nothing came of it", g)


@story
async def members_have_epochs(at: Script, g: str) -> None:
    joined = await at.beat("joins", g)
    epoch = joined.member_epoch
    await at.beat("newer", g, epoch=epoch + 1, owned={"t": (0, 1)})
    await at.beat("another member", g, "n", epoch=epoch)
    await at.beat("a second", g, "n", counts_only=True)
    kept = at.parts(await at.beat("the first gives up", g, epoch=epoch, counts_only=True))
    await at.consumer_describe("revoking", g)
    await at.beat("it has not yet", g, epoch=epoch, owned={"t": (0, 1)})
    await at.beat("now it has", g, epoch=epoch, owned=kept)
    await at.beat("the answer was lost", g, epoch=epoch, owned=kept)
    await at.beat("an older one with more", g, epoch=epoch, owned={"t": (0, 1)})
    await at.beat("the second", g, "n", epoch=epoch + 1, counts_only=True)
    await at.consumer_describe("stable", g)
    await at.beat("the first leaves", g, epoch=-1)
    await at.beat("the second", g, "n", epoch=epoch + 1, counts_only=True)
    await at.consumer_describe("one is left", g)


@story
async def who_does_not_revoke_is_gone(at: Script, g: str) -> None:
    joined = await at.beat("joins", g, rebalance_ms=1_000)
    await at.beat("a second", g, "n", rebalance_ms=1_000)
    await at.beat("the first is told", g, epoch=joined.member_epoch, counts_only=True)
    await asyncio.sleep(2.5)
    await at.beat("the first is gone", g, epoch=joined.member_epoch, owned={"t": (0, 1)})
    await at.beat("the second has all", g, "n", epoch=joined.member_epoch + 1)
    await at.consumer_describe("then", g)


@story
async def a_group_has_a_largest_size(at: Script, g: str) -> None:
    for number in range(4):
        await at.beat(f"member {number}", g, f"m{number}", counts_only=True)
    await at.beat("a fifth", g, "m5")
    await at.beat("a fifth, static", g, "m5", instance="i")
    await at.beat("one that is in", g, "m0", counts_only=True)


@story
async def subscriptions_change(at: Script, g: str) -> None:
    joined = await at.beat("joins", g)
    epoch = joined.member_epoch
    later = await at.beat("wants more", g, epoch=epoch, topics=("t", "u"), owned={"t": (0, 1)}, rebalance_ms=60_000)
    later = await at.beat(
        "wants another", g, epoch=later.member_epoch, topics=("u",), owned={"t": (0, 1), "u": (0, 1)}, rebalance_ms=60_000
    )
    later = await at.beat("gave up", g, epoch=later.member_epoch, owned={"u": (0, 1)})
    later = await at.beat(
        "wants none that is there", g, epoch=later.member_epoch, topics=("none",), owned={"u": (0, 1)}, rebalance_ms=60_000
    )
    later = await at.beat("gave up", g, epoch=later.member_epoch, owned={})
    later = await at.beat("wants nothing", g, epoch=later.member_epoch, topics=(), owned={}, rebalance_ms=60_000)
    await at.consumer_describe("then", g)


@story
async def assignors_are_chosen(at: Script, g: str) -> None:
    await at.beat("range", g, "a", topics=("t", "u"), assignor="range")
    await at.consumer_describe("range", g)
    await at.beat("another has no wish", g, "b", topics=("t", "u"), counts_only=True)
    await at.consumer_describe("still", g)
    await at.beat("two want uniform", g, "c", topics=("t", "u"), assignor="uniform", counts_only=True)
    await at.beat("two want uniform", g, "d", topics=("t", "u"), assignor="uniform", counts_only=True)
    await at.consumer_describe("uniform", g)


# Static members


@story
async def a_static_member_comes_back(at: Script, g: str) -> None:
    joined = await at.beat("joins", g, "a", instance="i")
    await at.beat("another of its name", g, "b", instance="i")
    await at.beat("it joins again itself", g, "a", instance="i")
    await at.beat("as another instance", g, "a", epoch=joined.member_epoch, instance="j")
    await at.beat("another of its name beats", g, "b", epoch=joined.member_epoch, instance="i")
    await at.beat("leaves for a while", g, "a", epoch=-2, instance="i")
    await at.consumer_describe("away", g)
    back = await at.beat("comes back", g, "b", instance="i")
    await at.beat("the old one", g, "a", epoch=joined.member_epoch, instance="i")
    await at.beat("the old one without its instance", g, "a", epoch=joined.member_epoch)
    await at.beat("the new one", g, "b", epoch=back.member_epoch, instance="i")
    await at.consumer_describe("back", g)
    await at.beat("leaves with another's id", g, "a", epoch=-1, instance="i")
    await at.leave("by an administrator", g, ("", "i"))
    await at.consumer_describe("gone", g)


# Offsets


@story
async def commits_are_fenced_by_epoch(at: Script, g: str) -> None:
    await at.commit("before there is a group", g, "m", 1)
    await at.commit("a simple consumer", g)
    joined = await at.beat("joins", g)
    epoch = joined.member_epoch
    await at.commit("the member", g, "m", epoch, partitions=(0, 1))
    await at.commit("newer", g, "m", epoch + 1)
    await at.commit("older", g, "m", epoch - 1)
    await at.commit("an older client", g, "m", epoch, version=8)
    await at.commit("nobody", g, "n", epoch)
    await at.commit("a simple consumer", g)
    await at.fetch("anybody", g)
    await at.fetch("the member", g, member="m", epoch=epoch)
    await at.fetch("older", g, member="m", epoch=epoch - 1)
    await at.fetch("nobody", g, member="n", epoch=epoch)
    await at.fetch("no epoch", g, member="m", epoch=-1)
    await at.delete_offsets("subscribed", g, {"t": (0,), "u": (0,)})
    await at.delete("not empty", g)
    await at.beat("wants more", g, epoch=epoch, topics=("t", "u"), owned={"t": (0, 1)}, rebalance_ms=60_000)
    await at.commit("as before, of what it had then", g, "m", epoch)
    await at.commit("as before, of what it did not have", g, "m", epoch, topic="u")
    await at.beat("leaves", g, epoch=-1)
    await at.commit("a simple consumer, now it is empty", g)
    await at.commit("who left", g, "m", epoch + 1)
    await at.delete_offsets("not subscribed any more", g, {"t": (0,)})
    await at.delete("deleted", g)
    await at.fetch("deleted", g)


# The classic protocol beside it


@story
async def classic_requests_at_a_group_of_the_new_protocol(at: Script, g: str) -> None:
    epoch = (await at.beat("joins", g)).member_epoch
    await at.describe("described the old way", g)
    await at.describe("described the old way", g, version=5)
    await at.heartbeat("a heartbeat of it", g, "m", epoch)
    await at.sync("a sync of it", g, "m", epoch)
    await at.join("another kind", g, kind="connect")
    await at.join("no protocols", g, protocols=())
    await at.join("too short", g, session_ms=999)
    required = await at.join("a classic member", g, protocols=(("range", SUBSCRIPTION),))
    assert required.error_code.name == "member_id_required"
    joined = await at.join("with its id", g, required.member_id, protocols=(("range", SUBSCRIPTION),))
    member, generation = joined.member_id, joined.generation_id
    await at.consumer_describe("both", g)
    await at.sync("nothing yet", g, member, generation)
    await at.heartbeat("the others must give up", g, member, generation)
    await at.sync("another protocol", g, member, generation, protocol="sticky")
    await at.sync("another kind", g, member, generation, kind="connect")
    await at.heartbeat("newer", g, member, generation + 1)
    await at.commit("it commits", g, member, generation)
    await at.commit("newer", g, member, generation + 1)
    kept = at.parts(await at.beat("the first gives up", g, epoch=epoch, counts_only=True))
    await at.beat("and has", g, epoch=epoch, owned=kept, counts_only=True)
    await at.heartbeat("now it may join", g, member, generation)
    joined = await at.join("joins again", g, member, protocols=(("range", SUBSCRIPTION),))
    await at.heartbeat("has all", g, member, joined.generation_id)
    await at.consumer_describe("both, stable", g)
    await at.leave("it leaves", g, (member, None), ("nobody", None), ("", "nothing"))
    await at.consumer_describe("one is left", g)


@story
async def a_classic_group_changes_over_and_back(at: Script, g: str) -> None:
    (member,) = await at.stable(g, None, protocols=(("range", SUBSCRIPTION),))
    await at.beat("not the first one", g, "n", epoch=1)
    await at.beat("a member of the new protocol", g, "n", counts_only=True)
    await at.list("changed over", g)
    await at.consumer_describe("changed over", g)
    await at.describe("described the old way", g)
    await at.heartbeat("it shall join", g, member, 1)
    joined = await at.join("joins", g, member, protocols=(("range", SUBSCRIPTION),))
    await at.sync("its assignment", g, member, joined.generation_id)
    await at.beat("the new one leaves", g, "n", epoch=-1)
    await at.list("changed back", g)
    await at.describe("changed back", g)
    await at.heartbeat("it shall join", g, member, joined.generation_id)


@story
async def groups_that_cannot_change_over(at: Script, g: str) -> None:
    await at.stable(f"{g}-connect", None, kind="connect", protocols=(("default", b""),))
    await at.beat("connect", f"{g}-connect")
    await at.stable(f"{g}-junk", None, protocols=(("range", b"junk"),))
    await at.beat("junk", f"{g}-junk")
    await at.commit("a simple one", f"{g}-simple")
    await at.beat("a simple one becomes one", f"{g}-simple")
    ids = await at.stable(f"{g}-empty", None)
    await at.leave("empty", f"{g}-empty", (ids[0], None))
    await at.beat("an empty one becomes one", f"{g}-empty")
    await at.list("all", g)
    await at.beat("empty again", f"{g}-empty", epoch=-1)
    await at.join("and a classic one again", f"{g}-empty", version=3)
    await at.list("all", g)


@story
async def groups_are_listed_by_state_and_type(at: Script, g: str) -> None:
    await at.beat("stable", f"{g}-stable")
    await at.beat("reconciling", f"{g}-reconciling")
    await at.beat("reconciling", f"{g}-reconciling", "n")
    await at.beat("empty", f"{g}-empty")
    await at.beat("empty", f"{g}-empty", epoch=-1)
    await at.commit("classic", f"{g}-classic")
    for states in (("Stable",), ("reconciling",), ("Empty",), ("Assigning",)):
        await at.list(f"states {states}", g, states=states)
    for types in (("consumer",), ("classic",), ("Consumer", "classic")):
        await at.list(f"types {types}", g, types=types)
    await at.list("an older client", g, version=3)


DIFFERENCES: dict[tuple[str, str], str] = {
    ("what_is_not_taken", "no expression"): "the words of another RE2",
}


@pytest.mark.parametrize("name", list(STORIES))
def test_a_story_is_told_alike(name: str, brokers: dict[str, str]) -> None:
    group = f"g-{uuid.uuid4().hex[:8]}"

    async def perform(bootstrap: str) -> list[tuple[Any, ...]]:
        script = Script(bootstrap)
        try:
            await script.know_topics()
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
