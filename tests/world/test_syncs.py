"""Syncs of many files at once: by the kernel's workers, and by threads."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hotlog.world.ports import File
from hotlog.world.posix import PosixDisk
from hotlog.world.syncs import _EVENT, IN_FLIGHT_MAX, KernelSyncs, ThreadSyncs, syncs_of
from tests.tools.patience import SOON_S

Syncs = ThreadSyncs | KernelSyncs


@pytest.fixture(params=["what the machine has", "threads"])
def syncs(request: pytest.FixtureRequest) -> Iterator[Syncs]:
    with ThreadPoolExecutor(2) as pool:
        made = ThreadSyncs(pool) if request.param == "threads" else syncs_of(pool)
        yield made
        made.close()


def files_in(directory: Path, count: int) -> list[File]:
    disk = PosixDisk(1)
    return [disk.open(str(directory / str(number)), create=True) for number in range(count)]


async def told_of(syncs: Syncs, files: list[File]) -> list[Exception | None]:
    """What each was told, in order of the files; that it is told once."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Exception | None]] = [loop.create_future() for _ in files]
    syncs.begin([(file, future.set_result) for file, future in zip(files, futures, strict=True)])
    assert not any(future.done() for future in futures), "later, on the loop"
    return await asyncio.wait_for(asyncio.gather(*futures), SOON_S)


def test_more_files_than_are_in_flight_at_a_time(tmp_path: Path, syncs: Syncs) -> None:
    files = files_in(tmp_path, 2 * IN_FLIGHT_MAX + 3)
    for _ in range(2):  # a loop of its own each time
        for file in files:
            file.append([b"x"])
        assert asyncio.run(told_of(syncs, files)) == [None] * len(files)


def test_a_kernel_that_takes_none_leaves_none_waiting(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        syncs = syncs_of(pool)
        if isinstance(syncs, KernelSyncs):
            syncs._submit = lambda *_: -1
        files = files_in(tmp_path, 2 * IN_FLIGHT_MAX + 3)
        assert asyncio.run(told_of(syncs, files)) == [None] * len(files)
        syncs.close()


def test_what_cannot_be_synced_is_told_and_the_others_are(tmp_path: Path, syncs: Syncs) -> None:
    files = files_in(tmp_path, 5)
    files[1].close()
    files[3] = PosixDisk(1).open("/dev/null")  # nothing there that a sync could bring anywhere
    outcomes = asyncio.run(told_of(syncs, files))
    assert [outcome is None for outcome in outcomes] == [True, False, True, False, True]


def test_who_fails_when_it_is_told_keeps_nobody_from_it(tmp_path: Path, syncs: Syncs) -> None:
    async def main() -> None:
        done = asyncio.Event()

        def fails(error: Exception | None) -> None:
            raise ValueError("a bug")

        def last(error: Exception | None) -> None:
            done.set()

        first, second = files_in(tmp_path, 2)
        syncs.begin([(first, fails)])
        syncs.begin([(second, last)])
        await asyncio.wait_for(done.wait(), SOON_S)

    asyncio.run(main())


def test_an_error_that_the_kernel_finds_is_told_to_whose_file_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as pool:
        made = syncs_of(pool)
        if isinstance(made, KernelSyncs):
            ask = made._events

            def fails(*arguments: Any) -> int:
                count = ask(*arguments)
                for at in range(0, count * _EVENT.size, _EVENT.size):
                    slot, block, _, second = _EVENT.unpack_from(made._done, at)
                    if made._begun[slot][0].path.endswith("2"):
                        _EVENT.pack_into(made._done, at, slot, block, -errno.EIO, second)
                return count

            monkeypatch.setattr(made, "_events", fails)
            outcomes = asyncio.run(told_of(made, files_in(tmp_path, 4)))
            assert [getattr(outcome, "errno", None) for outcome in outcomes] == [None, None, errno.EIO, None]
        made.close()
