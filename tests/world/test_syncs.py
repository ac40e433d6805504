"""Syncs of many files at once: by the kernel's workers, and by threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotlog.world.ports import File
from hotlog.world.posix import PosixDisk
from hotlog.world.syncs import IN_FLIGHT_MAX, KernelSyncs, ThreadSyncs, syncs_of
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
