"""Groups of the new protocol (KIP-848): in every version what one member does, in the newest ones epochs and what is fenced, static members, assignors,
offsets, and groups that change over from the classic protocol and back."""

from __future__ import annotations

from typing import Any

from tests.twin.groups import Groups, subscription
from tests.twin.keys import Key
from tests.twin.stories.groups import told_over
from tests.twin.telling import Side, story

BEAT, DESCRIBE = Key.CONSUMER_GROUP_HEARTBEAT, Key.CONSUMER_GROUP_DESCRIBE
told = told_over("t", "u", are_assigned=True)


@story(BEAT, DESCRIBE)
async def a_group_of_the_new_protocol_lives(at: Side) -> None:
    group, topic = at.name("g"), await at.topic("t", partitions=2)
    groups = Groups(at)
    groups.ids["t"] = topic
    await groups.until_assignable()

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


# Joining


@told(BEAT, DESCRIBE)
async def one_member_comes_and_goes(at: Groups, g: str) -> None:
    await at.beat("nobody is there", g, epoch=1, owned={})
    joined = await at.beat("joins", g)
    await at.describe_new("one", g)
    await at.list("one", g)
    await at.beat("again", g, epoch=joined.member_epoch)
    await at.beat("says what it has", g, epoch=joined.member_epoch, owned={"t": (0, 1)})
    await at.beat("says all", g, epoch=joined.member_epoch, topics=("t",), owned={"t": (0, 1)}, rebalance_ms=60_000)
    await at.beat("joins again", g)
    await at.beat("leaves", g, epoch=-1)
    await at.describe_new("empty", g)
    await at.list("empty", g)
    await at.beat("beats though it left", g, epoch=joined.member_epoch)
    await at.beat("leaves again", g, epoch=-1)
    await at.delete("deleted", g)
    await at.describe_new("deleted", g, f"{g}-unknown", "")


@told(BEAT, DESCRIBE)
async def what_is_not_taken(at: Groups, g: str) -> None:
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
    await at.describe_new("nothing came of it", g)


@told(BEAT, DESCRIBE)
async def members_have_epochs(at: Groups, g: str) -> None:
    joined = await at.beat("joins", g)
    epoch = joined.member_epoch
    await at.beat("newer", g, epoch=epoch + 1, owned={"t": (0, 1)})
    await at.beat("another member", g, "n", epoch=epoch)
    await at.beat("a second", g, "n", counts_only=True)
    kept = at.parts(await at.beat("the first gives up", g, epoch=epoch, counts_only=True))
    await at.describe_new("revoking", g)
    await at.beat("it has not yet", g, epoch=epoch, owned={"t": (0, 1)})
    await at.beat("now it has", g, epoch=epoch, owned=kept)
    await at.beat("the answer was lost", g, epoch=epoch, owned=kept)
    await at.beat("an older one with more", g, epoch=epoch, owned={"t": (0, 1)})
    await at.beat("the second", g, "n", epoch=epoch + 1, counts_only=True)
    await at.describe_new("stable", g)
    await at.beat("the first leaves", g, epoch=-1)
    await at.beat("the second", g, "n", epoch=epoch + 1, counts_only=True)
    await at.describe_new("one is left", g)


@told(BEAT, DESCRIBE)
async def who_does_not_revoke_is_gone(at: Groups, g: str) -> None:
    joined = await at.beat("joins", g, rebalance_ms=200)
    await at.beat("a second", g, "n", rebalance_ms=200)
    await at.beat("the first is told", g, epoch=joined.member_epoch, counts_only=True)
    await at.until_new(g, 1)
    await at.beat("the first is gone", g, epoch=joined.member_epoch, owned={"t": (0, 1)})
    await at.beat("the second has all", g, "n", epoch=joined.member_epoch + 1)
    await at.describe_new("then", g)


@told(BEAT)
async def a_group_of_the_new_protocol_has_a_largest_size(at: Groups, g: str) -> None:
    for number in range(4):
        await at.beat(f"member {number}", g, f"m{number}", counts_only=True)
    await at.beat("a fifth", g, "m5")
    await at.beat("a fifth, static", g, "m5", instance="i")
    await at.beat("one that is in", g, "m0", counts_only=True)


@told(BEAT, DESCRIBE)
async def subscriptions_change(at: Groups, g: str) -> None:
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
    await at.describe_new("then", g)


@told(BEAT, DESCRIBE)
async def assignors_are_chosen(at: Groups, g: str) -> None:
    await at.beat("range", g, "a", topics=("t", "u"), assignor="range")
    await at.describe_new("range", g)
    await at.beat("another has no wish", g, "b", topics=("t", "u"), counts_only=True)
    await at.describe_new("still", g)
    await at.beat("two want uniform", g, "c", topics=("t", "u"), assignor="uniform", counts_only=True)
    await at.beat("two want uniform", g, "d", topics=("t", "u"), assignor="uniform", counts_only=True)
    await at.describe_new("uniform", g)


# Static members


@told(BEAT, DESCRIBE)
async def a_static_member_of_the_new_protocol_comes_back(at: Groups, g: str) -> None:
    joined = await at.beat("joins", g, "a", instance="i")
    await at.beat("another of its name", g, "b", instance="i")
    await at.beat("it joins again itself", g, "a", instance="i")
    await at.beat("as another instance", g, "a", epoch=joined.member_epoch, instance="j")
    await at.beat("another of its name beats", g, "b", epoch=joined.member_epoch, instance="i")
    await at.beat("leaves for a while", g, "a", epoch=-2, instance="i")
    await at.describe_new("away", g)
    back = await at.beat("comes back", g, "b", instance="i")
    await at.beat("the old one", g, "a", epoch=joined.member_epoch, instance="i")
    await at.beat("the old one without its instance", g, "a", epoch=joined.member_epoch)
    await at.beat("the new one", g, "b", epoch=back.member_epoch, instance="i")
    await at.describe_new("back", g)
    await at.beat("leaves with another's id", g, "a", epoch=-1, instance="i")
    await at.leave("by an administrator", g, ("", "i"))
    await at.describe_new("gone", g)


# Offsets


@told(BEAT)
async def commits_are_fenced_by_epoch(at: Groups, g: str) -> None:
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


@told(BEAT, DESCRIBE)
async def classic_requests_at_a_group_of_the_new_protocol(at: Groups, g: str) -> None:
    epoch = (await at.beat("joins", g)).member_epoch
    await at.describe("described the old way", g)
    await at.describe("described the old way", g, version=5)
    await at.heartbeat("a heartbeat of it", g, "m", epoch)
    await at.sync("a sync of it", g, "m", epoch)
    await at.join("another kind", g, kind="connect")
    await at.join("no protocols", g, protocols=())
    await at.join("too short", g, session_ms=999)
    required = await at.join("a classic member", g, protocols=(("range", subscription(at.at.name("t"))),))
    assert required.error_code.name == "member_id_required"
    joined = await at.join("with its id", g, required.member_id, protocols=(("range", subscription(at.at.name("t"))),))
    member, generation = joined.member_id, joined.generation_id
    await at.describe_new("both", g)
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
    joined = await at.join("joins again", g, member, protocols=(("range", subscription(at.at.name("t"))),))
    await at.heartbeat("has all", g, member, joined.generation_id)
    await at.describe_new("both, stable", g)
    await at.leave("it leaves", g, (member, None), ("nobody", None), ("", "nothing"))
    await at.describe_new("one is left", g)


@told(BEAT, DESCRIBE)
async def a_classic_group_changes_over_and_back(at: Groups, g: str) -> None:
    (member,) = await at.stable(g, None, protocols=(("range", subscription(at.at.name("t"))),))
    await at.beat("not the first one", g, "n", epoch=1)
    await at.beat("a member of the new protocol", g, "n", counts_only=True)
    await at.list("changed over", g)
    await at.describe_new("changed over", g)
    await at.describe("described the old way", g)
    await at.heartbeat("it shall join", g, member, 1)
    joined = await at.join("joins", g, member, protocols=(("range", subscription(at.at.name("t"))),))
    await at.sync("its assignment", g, member, joined.generation_id)
    await at.beat("the new one leaves", g, "n", epoch=-1)
    await at.list("changed back", g)
    await at.describe("changed back", g)
    await at.heartbeat("it shall join", g, member, joined.generation_id)


@told(BEAT)
async def groups_that_cannot_change_over(at: Groups, g: str) -> None:
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


@told(BEAT)
async def groups_of_both_protocols_are_listed(at: Groups, g: str) -> None:
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
