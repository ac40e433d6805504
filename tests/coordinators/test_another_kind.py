"""A kind of coordinator that is no group runs on the same shard and keyed log: a codec, a pure step, nothing else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest

from hotlog.coordinators.effects import Arm, Disarm, Effect, Reply, Store, Token
from hotlog.coordinators.keyed_log import KeyedLog
from hotlog.coordinators.record_log import PartitionRecords
from hotlog.coordinators.shard import Memory, Shard
from hotlog.coordinators.shards import Shards
from hotlog.coordinators.tenure import NotCoordinator
from tests.coordinators.scene import Scene, play
from tests.partitions.hosted import hosted
from tests.sim.entropy import SimEntropy

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself


class Raise(NamedTuple):
    """Raise the producer's epoch; answered when that is durable."""

    token: Token


class Due(NamedTuple):
    """Nobody asked for a while."""


class Written(NamedTuple):
    epoch: int
    is_ok: bool


@dataclass(frozen=True)
class Producer:
    """Like a transactional id: its epoch, and who waits for that to be durable."""

    name: str
    epoch: int = 0
    waiting: tuple[Token, ...] = ()


class ProducerCodec:
    def owner(self, key: str) -> str:
        return key

    def encode_key(self, key: str) -> bytes:
        return key.encode()

    def decode_key(self, raw: bytes) -> str | None:
        return raw.decode()

    def encode_value(self, value: int) -> bytes:
        return str(value).encode()

    def decode_value(self, key: str, raw: bytes) -> int:
        return int(raw)


class ProducerKind:
    def fresh(self, owner: str) -> Producer:
        return Producer(owner)

    def revived(self, owner: str, stored: KeyedLog[str, int]) -> tuple[Producer, Iterable[Effect]] | None:
        epoch = stored.value(owner, owner)
        return None if epoch is None else (Producer(owner, epoch), [Arm("idle", 60_000, Due())])

    def step(self, state: Producer, event: object) -> tuple[Producer, Sequence[Effect]]:
        match event:
            case Raise(token):
                raised = replace(state, epoch=state.epoch + 1, waiting=(*state.waiting, token))
                return raised, [Disarm("idle"), Store(raised, is_awaited=True)]
            case Written(epoch, is_ok):
                answer = epoch if is_ok else -1
                replies = [Reply(token, answer) for token in state.waiting]
                return replace(state, waiting=()), [*replies, Arm("idle", 60_000, Due())]
            case Due():
                return replace(state, epoch=state.epoch + 100), []
        raise AssertionError(event)

    def entries(self, state: Producer, now_ms: int) -> Sequence[tuple[str, int | None]]:
        return [(state.name, state.epoch)]

    def stored(self, state: Producer, is_ok: bool) -> Written:
        return Written(state.epoch, is_ok)

    def is_at_rest(self, state: Producer) -> bool:
        return not state.waiting

    def size(self, state: Producer) -> int:
        return 8 * len(state.waiting)


def test_another_kind_of_coordinator_is_a_codec_and_a_step() -> None:
    async def story(scene: Scene) -> None:
        scene.log = await scene.opened_log()

        async def nothing() -> None:
            return

        def made(log: PartitionRecords) -> Shard[Producer, str, int]:
            return Shard(KeyedLog(log, ProducerCodec(), scene.clock, SimEntropy(3)), ProducerKind(), scene.clock, Memory())

        shards: Shards[Shard[Producer, str, int]] = Shards(
            topic="__transaction_state", clock=scene.clock, made=made, ensure_topic=nothing, partition_count=lambda: 1,
            hosting_version=itertools.count().__next__,
            log_of=lambda index: PartitionRecords(hosted(scene.log)) if scene.log is not None else None,
        )  # fmt: skip

        async def raised(name: str) -> int:
            shard = await shards.for_writing(name)
            token = shard.token()
            epoch: int = await shard.ask(name, token, Raise(token))
            return epoch

        assert [await raised("a"), await raised("a"), await raised("b")] == [1, 2, 1]
        shards.resign(0)
        assert await raised("a") == 3, "read from the log again"
        asking = asyncio.create_task(raised("b"))
        await asyncio.sleep(0)
        shards.resign(0)
        with pytest.raises(NotCoordinator):
            await asking
        await shards.follow()
        await asyncio.sleep(61)
        (shard,) = shards
        state = shard.state("a")
        assert state is not None
        assert state.epoch == 103, "its timers run, since it was read"
        assert scene.log is not None
        scene.log.block_appends("for now")
        assert await raised("a") == -1, "a kind is told what could not be stored"
        await shards.close()
        assert scene.manager is not None
        scene.log.block_appends(None)
        await scene.manager.close()

    play(story)
