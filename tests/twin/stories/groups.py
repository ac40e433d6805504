"""Classic groups: joining, static members (KIP-345, KIP-814), member ids (KIP-394), fencing, leaving with reasons (KIP-800), offsets, and what
administrators ask (KIP-518)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.twin.groups import Groups, subscription
from tests.twin.keys import Key
from tests.twin.telling import Side, story

ALL = (
    Key.JOIN_GROUP, Key.SYNC_GROUP, Key.HEARTBEAT, Key.LEAVE_GROUP, Key.DESCRIBE_GROUPS, Key.LIST_GROUPS, Key.DELETE_GROUPS, Key.OFFSET_COMMIT,
    Key.OFFSET_FETCH, Key.OFFSET_DELETE,
)  # fmt: skip


Told = Callable[[Groups, str], Awaitable[None]]


def told_over(*topics: str, are_assigned: bool = False) -> Callable[..., Callable[[Told], None]]:
    """Makes stories of groups whose names begin with `g`, over `topics` of two partitions each; in the newest versions, as static members and
    reasons are not in the older ones.  `are_assigned`: by the broker."""

    def told(*over: Key) -> Callable[[Told], None]:
        def make(tell: Told) -> None:
            async def with_groups(at: Side) -> None:
                groups = Groups(at)
                for word in topics:
                    groups.ids[word] = await at.topic(word, partitions=2)
                if are_assigned:
                    await groups.until_assignable()
                await tell(groups, at.name("g"))

            with_groups.__name__ = tell.__name__
            story(*over, once=True)(with_groups)

        return make

    return told


told = told_over("t")


@story(*ALL)
async def a_group_lives(side: Side) -> None:
    """What every client does, in all versions."""
    at, g = Groups(side), side.name("g")
    at.ids["t"] = await side.topic("t", partitions=2)
    await at.describe("before there is one", g)
    first = await at.joined("the first", g)
    await at.sync("it is given all", g, first.member_id, 1, assignments={first.member_id: b"all"})
    await at.heartbeat("it lives", g, first.member_id, 1)
    await at.commit("it commits", g, first.member_id, 1, partitions=(0, 1), metadata="m")
    await at.describe("with one member", g)
    second = at.later(at.joined("the second", g))
    await at.until(g, "PreparingRebalance", 2)
    await at.heartbeat("it shall join again", g, first.member_id, 1)
    again = await at.join("it joins again", g, first.member_id)
    other = await second
    leader, follower = (first, other) if again.leader == first.member_id else (other, first)
    waiting = at.later(at.sync("the follower waits", g, follower.member_id, 2))
    shares = {first.member_id: b"one half", other.member_id: b"the other"}
    await at.sync("the leader shares out", g, leader.member_id, 2, assignments=shares)
    await waiting
    await at.describe("with two members", g)
    await at.list("of ours", g)
    await at.fetch("what was committed", g)
    await at.fetch("of one partition", g, topics={"t": (1, 7)})
    await at.commit("a generation too old", g, first.member_id, 1)
    await at.heartbeat("a member that nobody knows", g, "nobody", 2)
    await at.delete("not while there are members", g)
    await at.leave("one leaves", g, (other.member_id, None))
    await at.heartbeat("the other is told", g, first.member_id, 2)
    await at.leave("the other leaves", g, (first.member_id, None))
    await at.leave("once more", g, (first.member_id, None))
    await at.delete_offsets("one offset goes", g, {"t": (0,)})
    await at.fetch("one is left", g)
    await at.delete("it is deleted", g)
    await at.fetch("nothing is left", g)
    await at.describe("nobody is left", g)


# Joining


@told(Key.JOIN_GROUP)
async def who_is_let_in(at: Groups, g: str) -> None:
    await at.join("session too short", g, session_ms=999)
    await at.join("session too long", g, session_ms=1_800_001)
    await at.join("no protocols", g, protocols=())
    await at.join("no protocol type", g, kind="")
    await at.join("an id that nobody gave out", g, "nobody")
    for version in (0, 1, 3, 4, 5, 9):
        await at.join(f"no id at version {version}", f"{g}-{version}", version=version)
    required = await at.join("an id is required", f"{g}-known")
    await at.join("another's id", f"{g}-known", "twin-00000000-0000-4000-8000-000000000000")
    first = await at.join("the id is taken", f"{g}-known", required.member_id)
    await at.join("another kind", f"{g}-known", kind="connect")
    await at.join("no protocol in common", f"{g}-known", protocols=(("other", b""),))
    await at.join("an instance needs no id", f"{g}-static", instance="i")
    await at.join("the leader again, while it shall assign", f"{g}-known", first.member_id)
    await at.join("an instance id that is empty", f"{g}-empty", instance="")


@told(Key.JOIN_GROUP)
async def a_group_has_a_largest_size(at: Groups, g: str) -> None:
    ids = await at.stable(g, None, None, "i", None)
    await at.join("a fifth, without an id", g)
    await at.join("a fifth, of an old client", g, version=3)
    await at.join("a fifth, static", g, instance="j")
    await at.join("one that is in", g, ids[1])
    await at.heartbeat("who is in stays", g, ids[3], 4)
    await at.join("a static one that comes back", g, instance="i")


@told(Key.JOIN_GROUP)
async def reasons_change_nothing(at: Groups, g: str) -> None:
    required = await at.join("join", g, reason="first")
    joined = await at.join("join", g, required.member_id, reason="é" * 200)
    await at.sync("sync", g, joined.member_id, 1, assignments={joined.member_id: b"a"})
    await at.leave("leave", g, (joined.member_id, None), reason="the consumer is being closed")
    await at.leave("leave again", g, (joined.member_id, None), reason="")
    await at.describe("then", g)


# Static members


@told(Key.JOIN_GROUP)
async def a_static_member_comes_back(at: Groups, g: str) -> None:
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


@told(Key.JOIN_GROUP)
async def a_static_member_comes_back_with_other_protocols(at: Groups, g: str) -> None:
    (first,) = await at.stable(g, "i1")
    back = await at.join("the same chosen, others beside it", g, instance="i1", protocols=(("range", b"x"),))
    await at.heartbeat("as it was", g, back.member_id, 1, instance="i1")
    back = await at.join("another chosen", g, instance="i1", protocols=(("sticky", b"x"),))
    await at.describe("then", g)
    await at.sync("then", g, back.member_id, back.generation_id, instance="i1", protocol="sticky")
    del first


@told(Key.JOIN_GROUP)
async def a_static_member_comes_back_while_others_join(at: Groups, g: str) -> None:
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


@told(Key.JOIN_GROUP)
async def instances_and_ids_that_do_not_fit(at: Groups, g: str) -> None:
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


@told(Key.JOIN_GROUP)
async def a_static_member_whose_session_ends_is_gone(at: Groups, g: str) -> None:
    (old,) = await at.stable(g, "i1", session_ms=1_000)
    await at.until(g, "Empty")
    await at.heartbeat("too late", g, old, 1, instance="i1")
    await at.describe("gone", g)
    await at.join("anew", g, instance="i1")


# Generations, states


@told(Key.JOIN_GROUP)
async def every_request_in_every_state(at: Groups, g: str) -> None:
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
    await at.delete("deleted", g, g, f"{g}-unknown")
    await at.describe("deleted", g)
    await at.fetch("deleted", g)


@told(Key.JOIN_GROUP)
async def the_leader_and_followers_ask_again(at: Groups, g: str) -> None:
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


@told(Key.JOIN_GROUP)
async def who_does_not_rejoin_is_gone(at: Groups, g: str) -> None:
    ids = await at.stable(g, None, "i", rebalance_ms=1_500)
    third = at.later(at.joined("a third", g, rebalance_ms=1_500))
    await at.until(g, "PreparingRebalance", 3)
    await third
    await at.heartbeat("the first", g, ids[0], 3)
    await at.heartbeat("the static one keeps its place", g, ids[1], 3, instance="i")
    await at.describe("then", g)


# Offsets


@told(Key.OFFSET_COMMIT, Key.OFFSET_FETCH)
async def offsets_are_told(at: Groups, g: str) -> None:
    await at.fetch("unknown group", g)
    await at.fetch("unknown group, named", g, topics={"t": (0, 7), "unknown": (0,)})
    await at.commit("committed", g, partitions=(0, 0), metadata="é")
    await at.commit("no such partition", g, partitions=(7, -1, 0))
    await at.commit("no such topic", g, topic="unknown")
    await at.commit("too much said", g, metadata="x" * 5_000)
    await at.commit("negative", g, offset=-5)
    await at.fetch("all", g)
    await at.fetch("named", g, topics={"t": (0, 7), "unknown": (0,)})
    await at.fetch("several groups", g, f"{g}-other")
    await at.delete_offsets("unknown group", f"{g}-other", {"t": (0,)})
    await at.delete_offsets("some", g, {"t": (0, 7), "unknown": (0,)})
    await at.fetch("after", g)
    await at.describe("nothing is left", g)


@told(Key.OFFSET_DELETE)
async def offsets_of_a_subscribed_topic_stay(at: Groups, g: str) -> None:
    ids = await at.stable(g, None, protocols=(("range", subscription(at.at.name("t"))),))
    await at.commit("committed", g, ids[0], 1)
    await at.delete_offsets("subscribed", g, {"t": (0,), "unknown": (0,)})
    await at.fetch("it stays", g)
    await at.delete("not empty", g)
    await at.leave("it leaves", g, (ids[0], None))
    await at.delete_offsets("not subscribed any more", g, {"t": (0,)})
    await at.fetch("gone", g)


# Administration


@told(Key.LIST_GROUPS)
async def groups_are_listed_by_state_and_type(at: Groups, g: str) -> None:
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
    await at.describe("several, one unknown", f"{g}-simple", f"{g}-unknown", f"{g}-simple")


@story(Key.JOIN_GROUP, once=True, alone=True)
async def a_group_without_a_name(side: Side) -> None:
    """It is one and the same for everybody, so nobody else may ask for it."""
    at = Groups(side)
    at.ids["t"] = await side.topic("t", partitions=2)
    await at.join("join", "")
    await at.sync("sync", "", "nobody", 1)
    await at.heartbeat("heartbeat", "", "nobody", 1)
    await at.leave("leave", "", ("nobody", None))
    await at.describe("describe", "")
    await at.fetch("fetch", "")
    await at.delete("delete", "")
    await at.delete_offsets("delete offsets", "", {"t": (0,)})
    await at.commit("a commit makes it", "", offset=1)
    await at.fetch("what was committed", "")
    await at.describe("there it is", "")
    await at.delete("delete it", "")


@told(Key.DESCRIBE_GROUPS)
async def what_may_be_done_with_a_group(at: Groups, g: str) -> None:
    await at.commit("there is one", g)
    asked = dict(groups=[g, f"{g}-unknown"], include_authorized_operations=True)
    await at.at.ask(Key.DESCRIBE_GROUPS, "with operations", **asked)
