"""The rule of what is committed: by example, and over any history of appends, fsyncs, fetches of followers and changes of the ISR."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.partitions.commit import Durability, committed_end, durability_of, rule_of
from tests.log.support import config

FSYNC, PAGE_CACHE, REPLICAS, OBJECT = Durability


@pytest.mark.parametrize(
    ("durability", "followers", "isr_min", "stored", "end"),
    [
        (FSYNC, {}, 1, 0, 7),  # one replica: as today
        (PAGE_CACHE, {}, 1, 0, 10),
        (FSYNC, {}, 1, 9, 7),  # what the store has makes nothing durable by itself
        (FSYNC, {2: 9, 3: 8}, 1, 0, 7),
        (FSYNC, {2: 9, 3: 5}, 1, 0, 5),
        (PAGE_CACHE, {2: 9, 3: 8}, 1, 0, 8),
        (PAGE_CACHE, {2: 10, 3: 10}, 3, 0, 10),
        (PAGE_CACHE, {2: 10, 3: 10}, 4, 0, 3),  # fewer in sync than min.insync.replicas: it stands still
        (REPLICAS, {2: 9}, 1, 0, 9),
        (REPLICAS, {}, 1, 0, 3),  # the leader alone is not enough
        (OBJECT, {}, 1, 6, 6),
        (OBJECT, {2: 4}, 3, 6, 6),
        (OBJECT, {}, 1, 12, 10),
    ],
)
def test_by_example(durability: Durability, followers: dict[int, int], isr_min: int, stored: int, end: int) -> None:
    """Written up to 10, synced up to 7, committed up to 3 before."""
    found = committed_end(3, 10, 7, durability, isr=followers.keys(), follower_ends=followers, isr_min=isr_min, stored_end=stored)
    assert found == end


def test_a_follower_that_never_fetched_holds_it_up() -> None:
    assert committed_end(3, 10, 10, FSYNC, isr={2}) == 3


def test_a_follower_out_of_sync_does_not_count() -> None:
    assert committed_end(3, 10, 10, FSYNC, isr={2}, follower_ends={2: 8, 3: 4}) == 8


@given(before=st.integers(0, 20), ends=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_with_one_replica_it_is_the_leaders_own_end(before: int, ends: tuple[int, int]) -> None:
    synced, written = sorted(ends)
    assert committed_end(before, written, synced, FSYNC) == max(before, rule_of(FSYNC)(written, synced)) == max(before, synced)
    assert committed_end(before, written, synced, PAGE_CACHE) == max(before, rule_of(PAGE_CACHE)(written, synced))
    assert rule_of(PAGE_CACHE)(written, synced) == written


@given(
    durability=st.sampled_from(Durability), ends=st.tuples(st.integers(0, 20), st.integers(0, 20)), isr_min=st.integers(1, 4),
    followers=st.dictionaries(st.integers(2, 4), st.integers(0, 20)), stored=st.integers(0, 20),
)  # fmt: skip
def test_a_log_asks_the_same_rule(
    durability: Durability, ends: tuple[int, int], isr_min: int, followers: dict[int, int], stored: int
) -> None:
    known = {"isr": set(followers), "follower_ends": followers, "isr_min": isr_min, "stored_end": stored}
    synced, written = sorted(ends)
    expected = committed_end(0, written, synced, durability, **known)  # type: ignore[arg-type]
    assert rule_of(durability, **known)(written, synced) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "durability"),
    [
        ({}, FSYNC),
        ({"hotlog_durability": "page-cache"}, PAGE_CACHE),
        ({"hotlog_durability": "page-cache", "flush_messages": 1}, FSYNC),  # as docs/configuration.md has it
        ({"hotlog_durability": "page-cache", "flush_messages": 2}, PAGE_CACHE),
    ],
)
def test_what_settings_ask_for(settings: dict[str, object], durability: Durability) -> None:
    assert durability_of(config(**settings)) is durability


class Cluster:
    """The ends of one partition's replicas as they may come about."""

    def __init__(self) -> None:
        self.written = self.synced = self.stored = self.committed = 0
        self.ends = {2: 0, 3: 0, 4: 0}
        self.isr: set[int] = set()
        self.isr_min = 1
        self.durability = FSYNC

    def step(self, move: str, amount: int, node: int) -> None:
        if move == "append":
            self.written += amount
        elif move == "sync":
            self.synced = min(self.synced + amount, self.written)
        elif move == "store":
            self.stored = min(self.stored + amount, self.synced)
        elif move == "fetch":
            self.ends[node] = min(self.ends[node] + amount, self.written)
        elif move == "shrink":
            self.isr.discard(node)
        elif move == "expand" and self.ends[node] >= self.committed:
            self.isr.add(node)
        elif move == "isr_min":
            self.isr_min = 1 + amount % 4
        elif move == "durability":
            self.durability = tuple(Durability)[amount % 4]

    def decide(self) -> int:
        return committed_end(
            self.committed, self.written, self.synced, self.durability,
            isr=self.isr, follower_ends=self.ends, isr_min=self.isr_min, stored_end=self.stored,
        )  # fmt: skip


MOVES = ("append", "sync", "store", "fetch", "shrink", "expand", "isr_min", "durability")


def histories(*moves: str) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    return st.lists(st.tuples(st.sampled_from(moves), st.integers(1, 8), st.sampled_from((2, 3, 4))), max_size=60)


HISTORIES = histories(*MOVES)


@given(HISTORIES)
def test_it_never_goes_back_and_never_beyond_what_is_durable(history: list[tuple[str, int, int]]) -> None:
    cluster = Cluster()
    for move, amount, node in history:
        cluster.step(move, amount, node)
        before, cluster.committed = cluster.committed, cluster.decide()
        end = cluster.committed
        assert end >= before
        assert end <= cluster.written
        if end > before:  # what is newly promised
            if cluster.durability is OBJECT:
                assert end <= cluster.stored
                continue
            assert cluster.durability is not FSYNC or end <= cluster.synced
            assert all(end <= cluster.ends[each] for each in cluster.isr)
            assert 1 + len(cluster.isr) >= cluster.isr_min
            assert cluster.durability is not REPLICAS or cluster.isr


@given(histories("append", "sync", "fetch", "shrink", "expand"))
def test_it_is_never_above_the_end_of_any_in_sync_replica(history: list[tuple[str, int, int]]) -> None:
    cluster = Cluster()
    for move, amount, node in history:
        cluster.step(move, amount, node)
        cluster.committed = cluster.decide()
        assert all(cluster.committed <= cluster.ends[each] for each in cluster.isr)
        assert cluster.committed <= cluster.synced


@given(HISTORIES, st.sampled_from(MOVES[:4]), st.integers(1, 8), st.sampled_from((2, 3, 4)))
def test_more_of_anything_never_commits_less(history: list[tuple[str, int, int]], move: str, amount: int, node: int) -> None:
    cluster = Cluster()
    for each in history:
        cluster.step(*each)
        cluster.committed = cluster.decide()
    before = cluster.decide()
    cluster.step(move, amount, node)
    assert cluster.decide() >= before
