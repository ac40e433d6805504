"""A whole broker on the simulated network, asked by another host over our own client side: delays, cuts, kills, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from kio.schema.errors import ErrorCode

from hotlog.kernel.addresses import PLAINTEXT, Endpoint
from hotlog.kernel.errors import OutcomeUnknown, PeerUnavailable
from hotlog.wire.peer import Peer, connect
from tests.sim.world import HOST, Life, SimWorld, simulate
from tests.wire.serving import batch_of, fetch, produce

PORT = 9092
WITHIN_S = 20.0


async def listening(world: SimWorld) -> Life:
    life = await world.boot()
    bound = await life.node.listen([Endpoint(PLAINTEXT, HOST, PORT)])
    assert bound == [Endpoint(PLAINTEXT, HOST, PORT)]
    return life


async def peer_of(world: SimWorld) -> Peer:
    return await connect(world.net.host("other"), HOST, PORT, client_id="node 2")


async def end_of(node: Peer) -> int:
    """The high watermark of t-0."""
    answer = await node.call(fetch("t", {0: 0}), within_s=WITHIN_S)
    return int(answer.responses[0].partitions[0].high_watermark)


async def acknowledged(node: Peer, value: bytes) -> None:
    answer = await node.call(produce("t", {0: batch_of(value)}), within_s=WITHIN_S)
    assert answer.responses[0].partition_responses[0].error_code is ErrorCode.none


def test_a_long_poll_is_answered_by_what_another_connection_appends() -> None:
    async def main(world: SimWorld) -> tuple[float, str]:
        life = await listening(world)
        await life.broker.create_topic("t", 1)
        reader, writer = await peer_of(world), await peer_of(world)
        poll = asyncio.create_task(reader.call(fetch("t", {0: 0}, wait_ms=15_000), within_s=WITHIN_S))
        await asyncio.sleep(5)
        assert not poll.done()
        await acknowledged(writer, b"news")
        answer = await poll
        assert answer.responses[0].partitions[0].records
        took = world.loop.time()
        assert took < 10, "woken, not timed out"
        reader.close()
        writer.close()
        await life.end("stop")
        return took, world.trace.digest()

    assert simulate(1, main) == simulate(1, main)  # byte for byte the same story


def test_a_link_that_is_cut_loses_nothing_and_holds_nobody_for_longer_than_the_deadline() -> None:
    async def main(world: SimWorld) -> None:
        life = await listening(world)
        await life.broker.create_topic("t", 1)
        node = await peer_of(world)
        await acknowledged(node, b"before")
        world.net.cut("other", HOST)
        with pytest.raises(OutcomeUnknown, match="within"):
            await node.call(produce("t", {0: batch_of(b"on its way")}), within_s=2)
        with pytest.raises(PeerUnavailable):
            await connect(world.net.host("third"), "nowhere", PORT, client_id="node 3")
        assert life.broker.partition("t", 0).log.high_watermark == 1  # type: ignore[union-attr]
        world.net.mend()
        answer = await node.call(fetch("t", {0: 1}, wait_ms=5_000), within_s=WITHIN_S)
        assert b"on its way" in answer.responses[0].partitions[0].records, "the outcome was unknown, and it happened"
        node.close()
        await life.end("stop")

    simulate(2, main)


@pytest.mark.parametrize("how", ["kill", "power"])
def test_a_broker_that_dies_fails_its_callers_and_keeps_what_it_acknowledged(how: str) -> None:
    async def main(world: SimWorld) -> None:
        life = await listening(world)
        await life.broker.create_topic("t", 1)
        node = await peer_of(world)
        await acknowledged(node, b"kept")

        async def dying() -> str:
            try:
                await node.call(fetch("t", {0: 1}, wait_ms=15_000), within_s=30)
            except OutcomeUnknown as why:
                return str(why)
            return ""

        told: list[str] = []
        poll = asyncio.get_running_loop().create_task(dying())
        poll.add_done_callback(lambda done: told.append(done.result()))
        await asyncio.sleep(1)
        await life.end(how, keep=[poll])
        start = world.loop.time()
        await asyncio.wait([poll])
        if how == "kill":
            assert "reset" in told[0] and world.loop.time() - start < 1
        else:
            assert "within 30 s" in told[0] and world.loop.time() - start > 20
        again = await listening(world)
        fresh = await peer_of(world)
        assert await end_of(fresh) == 1
        fresh.close()
        await again.end("stop")

    simulate(3, main)


@pytest.mark.parametrize("how", ["kill", "power"])
@pytest.mark.parametrize("after", range(1, 25))
def test_whatever_a_client_was_told_is_there_after_the_broker_died_in_any_call(after: int, how: str) -> None:
    """In the `after`-th call to disk or store since its topic is there: what was acknowledged over the network survives, in order."""

    async def main(world: SimWorld) -> None:
        told: list[bytes] = []

        async def serve(life: Life) -> None:
            await life.open()
            await life.node.listen([Endpoint(PLAINTEXT, HOST, PORT)])
            await life.broker.create_topic("t", 1)
            life.fuse.at = life.fuse.calls + after
            await asyncio.sleep(3600)

        async def ask() -> None:
            for number in range(100):
                try:
                    node = await peer_of(world)
                    while True:
                        value = b"%d-%d" % (number, len(told))
                        await acknowledged(node, value)
                        told.append(value)
                except (OutcomeUnknown, PeerUnavailable, AssertionError):
                    await asyncio.sleep(0.05)

        life = world.begin()
        asking = world.loop.create_task(ask())
        await life.run(serve)
        asking.cancel()
        await asyncio.wait([asking])
        await life.end(how)
        assert told or after < 12, "some calls later there are acknowledged records"
        again = await listening(world)
        if told:
            node = await peer_of(world)
            answer = await node.call(fetch("t", {0: 0}), within_s=WITHIN_S)
            kept = bytes(answer.responses[0].partitions[0].records)
            places = [kept.find(value) for value in told]
            assert -1 not in places and places == sorted(places)
            node.close()
        await again.end("stop")

    simulate(after, main)
