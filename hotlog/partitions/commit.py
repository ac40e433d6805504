"""Up to where a log is committed: what consumers may read, and what an ack has waited for.  Pure.

The one rule for every durability.  The leader's log asks it whenever its own written or synced end has moved.  Code that learns that a
follower, or the store, has more of the log has it asked again.  To make acks wait for something else, change this file.

Invariants: the committed end never goes back; it is never above what the leader has as durably as the topic demands, nor, where
replicas are waited for, above the end of any in-sync one; with one replica it is the leader's own end.  Whoever adds a replica to the ISR first sees
that its end is not below the committed end, as Kafka's leader does: the rule cannot take back what was read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from functools import partial

from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.marks import CommitRule, when_appended, when_durable

_NOBODY: Mapping[int, int] = {}


class Durability(Enum):
    """What makes a batch durable, chosen per topic (hotlog.durability)."""

    FSYNC = "fsync"  # an fsync of the leader
    PAGE_CACHE = "page-cache"  # the leader's write
    REPLICAS = "replicas"  # the write of two replicas at least
    OBJECT = "object"  # the object store


def committed_end(
    before: int,
    written_end: int,
    synced_end: int,
    durability: Durability,
    *,
    isr: Collection[int] = (),
    follower_ends: Mapping[int, int] = _NOBODY,
    isr_min: int = 1,
    stored_end: int = 0,
) -> int:
    """The committed end of a log (Kafka: high watermark), an offset.

    Args:
        before: what this function said last; never less is said.
        written_end, synced_end: of the leader's log: behind what was written, and behind what an fsync has covered.
        isr: node ids of the followers that are in sync; the leader is not among them.
        follower_ends: up to where each follower has the log; one that has not fetched yet has nothing.
        isr_min: in-sync replicas, the leader counted, below which nothing new is committed (min.insync.replicas, KIP-966).
        stored_end: behind what an object in the store holds.
    """
    if durability is Durability.OBJECT:
        return max(before, min(written_end, stored_end))
    end = synced_end if durability is Durability.FSYNC else written_end
    if not isr and isr_min <= 1 and durability is not Durability.REPLICAS:  # one replica
        return end if end > before else before
    if durability is Durability.REPLICAS:
        isr_min = max(isr_min, 2)
    if 1 + len(isr) < isr_min:
        return before
    return max(before, min([end, *(follower_ends.get(node, 0) for node in isr)]))


def durability_of(config: TopicConfig) -> Durability:
    """What a topic's settings ask for."""
    return Durability.FSYNC if config.is_fsynced else Durability.PAGE_CACHE


def rule_of(
    durability: Durability,
    *,
    isr: Collection[int] = (),
    follower_ends: Mapping[int, int] = _NOBODY,
    isr_min: int = 1,
    stored_end: int = 0,
) -> CommitRule:
    """`committed_end` as a log asks it; for one replica in the form that a log follows without a call."""
    if not isr and isr_min <= 1 and durability is Durability.FSYNC:
        return when_durable
    if not isr and isr_min <= 1 and durability is Durability.PAGE_CACHE:
        return when_appended
    return partial(  # a log never goes back by itself: what was committed before need not be handed in
        committed_end, 0, durability=durability, isr=isr, follower_ends=follower_ends, isr_min=isr_min, stored_end=stored_end
    )
