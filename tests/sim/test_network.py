"""What the simulated network can do that a contract does not ask for: delays, cuts, and hosts that die, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.sim.entropy import stream
from tests.sim.loop import SimLoop, run
from tests.sim.network import CONNECT_SECONDS, WINDOW_BYTES, SimNet, SimNetwork
from tests.world.test_network_contract import Bench, Ear, Scene, opened

Body = Callable[[SimNet, SimNetwork, Scene], Awaitable[None]]


def in_a_net(body: Body, *, delay_s: tuple[float, float] = (0.5, 0.5)) -> None:
    async def main(loop: SimLoop) -> None:
        net = SimNet(loop, stream(0, "network"), delay_s)
        server = net.host("server")
        scene = await opened(Bench(server, net.host("client"), "server"))
        await body(net, server, scene)
        assert loop.unhandled == []

    run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


async def heard(ear: Ear, count: int) -> float:
    await ear.until(lambda: len(ear.came) >= count)
    return now()


def test_a_byte_takes_its_time_each_way() -> None:
    async def body(net: SimNet, server: SimNetwork, scene: Scene) -> None:
        start = now()
        client, accepted = await scene.connect()
        assert now() - start == 1.0
        client.wire.write(b"x")
        assert await heard(accepted, 1) - start == 1.5

    in_a_net(body)


def test_what_is_under_way_when_a_link_is_cut_arrives_once_it_is_mended() -> None:
    async def body(net: SimNet, server: SimNetwork, scene: Scene) -> None:
        client, accepted = await scene.connect()
        client.wire.write(b"before")
        net.cut("client", "server")
        client.wire.write(b" during")
        await asyncio.sleep(3600)
        assert not accepted.came and not client.lost.done()
        net.mend()
        client.wire.write(b" after")
        await heard(accepted, 19)
        assert bytes(accepted.came) == b"before during after"

    in_a_net(body, delay_s=(0.1, 0.9))


def test_a_link_may_be_cut_one_way() -> None:
    async def body(net: SimNet, server: SimNetwork, scene: Scene) -> None:
        client, accepted = await scene.connect()
        net.cut("server", "client", one_way=True)
        client.wire.write(b"question")
        await heard(accepted, 8)
        accepted.wire.write(b"answer")
        await asyncio.sleep(60)
        assert not client.came
        net.mend()
        await heard(client, 6)

    in_a_net(body)


def test_a_connect_across_a_cut_fails_in_the_end_and_works_once_it_is_mended() -> None:
    async def body(net: SimNet, server: SimNetwork, scene: Scene) -> None:
        net.cut("client", "server")
        start = now()
        with pytest.raises(OSError, match="timed out"):
            await scene.connect()
        assert now() - start == CONNECT_SECONDS
        net.mend()
        await scene.connect()

    in_a_net(body)


def test_a_process_that_is_killed_is_answered_for_by_its_machine() -> None:
    async def body(net: SimNet, server: SimNetwork, scene: Scene) -> None:
        client, accepted = await scene.connect()
        accepted.wire.write(b"last words")
        server.end()
        accepted.wire.write(b"from the grave")
        assert isinstance(await client.lost, ConnectionResetError)
        assert bytes(client.came) == b"last words"
        assert not accepted.lost.done()  # nothing runs in a dead process
        with pytest.raises(ConnectionRefusedError):
            await scene.connect()

    in_a_net(body)


def test_a_machine_without_power_says_nothing_until_it_is_up_again() -> None:
    async def body(net: SimNet, server: SimNetwork, scene: Scene) -> None:
        client, _ = await scene.connect()
        server.end(has_power=False)
        client.wire.write(b"hello?")
        await asyncio.sleep(3600)
        assert not client.lost.done()
        net.host("server")
        assert isinstance(await client.lost, ConnectionResetError)

    in_a_net(body)


def test_a_window_holds_a_writer_up_whatever_the_delay() -> None:
    async def body(net: SimNet, server: SimNetwork, scene: Scene) -> None:
        client, accepted = await scene.connect()
        accepted.wire.pause_reading()
        client.wire.write(bytes(3 * WINDOW_BYTES))
        await asyncio.sleep(60)
        assert client.wire.get_write_buffer_size() == 2 * WINDOW_BYTES and client.paused == 1
        accepted.wire.resume_reading()
        await heard(accepted, 3 * WINDOW_BYTES)
        assert client.resumed == 1

    in_a_net(body)
