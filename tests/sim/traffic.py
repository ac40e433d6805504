"""A workload over many lives: topics, their ledgers, producers that send again what was in doubt, and the checks in between.

Invariants: an idempotent producer sends in order and never goes on before the last batch was acknowledged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hotlog.kernel.errors import NotFound, Retry, StorageFailed
from hotlog.partitions.partition import Partition
from hotlog.wire.error_codes import Refused
from tests.sim.bucket import Violation
from tests.sim.checker import Ledger, check_partition, send
from tests.sim.clock import HOUR_MS
from tests.sim.world import Life, SimWorld


@dataclass(frozen=True)
class TopicPlan:
    """A topic to be made and filled."""

    name: str
    partitions: int
    configs: dict[str, str]
    records: int = 4
    value_bytes: int = 100

    @property
    def retention_ms(self) -> int:
        return int(self.configs.get("retention.ms", str(7 * 24 * HOUR_MS)))


HOSTED_AFTER_BEATS = 40  # of half a minute


@dataclass
class Traffic:
    """Producers of some topics."""

    world: SimWorld
    plans: list[TopicPlan]
    ledgers: dict[tuple[str, int], Ledger] = field(default_factory=dict)
    refused: int = 0

    def ledger(self, plan: TopicPlan, index: int) -> Ledger:
        key = (plan.name, index)
        if key not in self.ledgers:
            self.ledgers[key] = Ledger(f"{plan.name}-{index}", self.world.seed, 1000 + len(self.ledgers))
        return self.ledgers[key]

    async def ensure_topics(self, life: Life) -> None:
        for plan in self.plans:
            while life.broker.topic(plan.name) is None:
                try:
                    await life.broker.create_topic(plan.name, plan.partitions, dict(plan.configs))
                except (Retry, Refused):
                    await asyncio.sleep(30)
                    await life.beat("broker")
        for _ in range(
            HOSTED_AFTER_BEATS
        ):  # one that the life before only began waits for the store: a broker's beat, each second, asks again
            if all(life.broker.partition(plan.name, index) for plan in self.plans for index in range(plan.partitions)):
                return
            await asyncio.sleep(30)
            await life.beat("broker")

    def partitions(self, life: Life) -> list[tuple[TopicPlan, Partition, Ledger]]:
        found = []
        for plan in self.plans:
            for index in range(plan.partitions):
                partition = life.broker.partition(plan.name, index)
                if partition is None:
                    raise Violation(f"{plan.name}-{index} is not hosted after a restart")
                found.append((plan, partition, self.ledger(plan, index)))
        return found

    async def produce(self, life: Life) -> None:
        """One batch to each partition, after what was in doubt."""
        clock = self.world.clock
        for plan, partition, ledger in self.partitions(life):
            doubtful = [one for one in ledger.sent[-1:] if one.base_offset < 0]
            fresh = [] if doubtful else [ledger.make(clock.now_ms(), records=plan.records, value_bytes=plan.value_bytes)]
            for one in doubtful + fresh:
                try:
                    await send(partition, one, now_ms=clock.now_ms())
                except (Retry, StorageFailed) as refusal:
                    self.refused += 1
                    self.world.trace.add("client", f"{ledger.name} batch {one.number} refused: {type(refusal).__name__}")
                    break
                self.world.trace.add("client", f"{ledger.name} batch {one.number} at {one.base_offset}")

    async def check(self, life: Life, *, slack_ms: int = 0) -> None:
        """Everything clients were promised, now; `slack_ms` is how far the clock was set to and fro."""
        now_ms = self.world.clock.now_ms() + slack_ms
        for plan, partition, ledger in self.partitions(life):
            await self._check_one(partition, ledger)
            if "retention.bytes" not in plan.configs:
                ledger.check_not_early(partition.log_start_offset, now_ms=now_ms, retention_ms=plan.retention_ms)

    async def _check_one(self, partition: Partition, ledger: Ledger) -> None:
        for _ in range(40):
            try:
                await check_partition(partition, ledger)
                return
            except (Retry, NotFound):
                await asyncio.sleep(60)
        raise Violation(f"{partition.tp} cannot be read though the store is well again")


def check_settled(world: SimWorld, *, grace_ms: int) -> None:
    """Once the dust has settled: every object is referred to, or is garbage that waits for its time; no upload hangs about."""
    now_ms = world.clock.now_ms()
    for root in world.manifests().values():
        keys, live = world.keys_of(root), world.names_live(root)
        doomed = {item.name for item in root.garbage}
        for key in sorted(world.bucket.objects):
            name = key.removeprefix(keys.prefix)
            if name == key or name == "manifest" or name in live or name in doomed or root.garbage_ranges:
                continue
            raise Violation(
                f"orphan {key} is still there, {(now_ms - world.bucket.objects[key].modified_ms) / HOUR_MS:.1f} h old"
            )
        for name in sorted(live):
            if keys.object(name) not in world.bucket.objects:
                raise Violation(f"object {name} is referred to and not there")
        for item in root.garbage:
            if item.not_before_ms < now_ms - grace_ms:
                raise Violation(f"garbage {item.name} is overdue by {(now_ms - item.not_before_ms) / HOUR_MS:.1f} h")
    stale = [upload for (_, _), upload in world.bucket.uploads.items() if now_ms - upload.started_ms > 3 * grace_ms]
    if stale:
        raise Violation(f"unfinished uploads are left: {stale}")
