"""What only the directory form promises: etags that never repeat, races between processes, kills, and files that tools can read."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hotlog.kernel.errors import Invalid, NotFound, OutcomeUnknown, PreconditionFailed, StoreUnavailable
from hotlog.kernel.limits import MiB
from hotlog.kernel.metrics import Metrics
from hotlog.world.posix import PosixDisk, SystemEntropy
from tests.conftest import OpenStore
from tests.support.clocks import HandClock
from tests.tools.patience import PATIENCE_S
from tiering.cost.meter import Meter
from tiering.store.directory import DirectoryStore
from tiering.store.metered import Account
from tiering.store.sources import BytesSource

RACE = textwrap.dedent(
    """
    import asyncio, sys
    from hotlog.kernel.errors import PreconditionFailed
    from hotlog.kernel.metrics import Metrics
    from hotlog.kernel.settings import Settings
    from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
    from tiering.store import directory_files, open_store

    async def main(url, rounds):
        directory_files.LOCK_SECONDS_MAX = 300  # a stalled racer is no fault: no write may come to be in doubt
        settings = Settings.resolve({"hotlog.store.attempt.timeout.ms": "600000", "hotlog.store.total.timeout.ms": "600000"})
        store = await open_store(url, settings=settings, metrics=Metrics(), clock=SystemClock(), entropy=SystemEntropy(),
                                 disk=PosixDisk())
        done = 0
        while done < rounds:
            blob = await store.get("counter")
            try:
                await store.put("counter", str(int(bytes(blob.data)) + 1).encode(), if_match=blob.etag)
                done += 1
            except PreconditionFailed:
                pass

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    """
)
ENDLESS_UPLOAD = textwrap.dedent(
    """
    import asyncio, sys
    from hotlog.kernel.metrics import Metrics
    from hotlog.kernel.settings import Settings
    from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
    from tiering.store import open_store

    class Source:
        size = 64 * 1024 * 1024
        async def read(self, start, end):
            if start >= self.size // 2:
                print("half way", flush=True)
                await asyncio.Event().wait()
            return bytes(end - start)

    async def main(url):
        store = await open_store(url, settings=Settings.resolve({}), metrics=Metrics(), clock=SystemClock(),
                                 entropy=SystemEntropy(), disk=PosixDisk())
        await store.put_source("data/large.seg", Source())

    asyncio.run(main(sys.argv[1]))
    """
)


class ConstantEntropy:
    """The same bytes each time; nonces still differ."""

    def __init__(self) -> None:
        self._real = SystemEntropy()

    def uuid(self) -> UUID:
        return self._real.uuid()

    def uniform(self, low: float, high: float) -> float:
        return low

    def bytes(self, count: int) -> bytes:
        return bytes(count)


async def open_with(root: Path, clock: HandClock) -> DirectoryStore:
    account = Account(clock, Metrics(), Meter(clock))
    return await DirectoryStore.open(str(root), run=PosixDisk().run, clock=clock, entropy=ConstantEntropy(), account=account)


async def test_no_two_writes_share_an_etag_even_when_the_clock_stands_still_or_goes_back(tmp_path: Path) -> None:
    clock = HandClock(seconds=0.0)
    store = await open_with(tmp_path, clock)
    etags = [await store.put("x", b"same") for _ in range(20)]
    clock.ms -= 600_000
    etags += [await store.put("x", b"same") for _ in range(20)]
    await store.close()
    again = await open_with(tmp_path, clock)
    etags += [await again.put("x", b"same"), await again.put("y", b"same")]
    assert len(set(etags)) == len(etags)
    await store.close()
    await again.close()


def test_processes_that_race_lose_no_update(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "counter").write_bytes(b"0")
    racers = [subprocess.Popen([sys.executable, "-c", RACE, f"file://{tmp_path}/store", "25"]) for _ in range(4)]
    assert [racer.wait(PATIENCE_S) for racer in racers] == [0, 0, 0, 0]
    assert (tmp_path / "store" / "counter").read_bytes() == b"100"


async def test_a_lock_that_another_process_keeps_is_told_and_costs_no_thread(
    tmp_path: Path, open_test_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped while it held the lock: writes fail in time, reads go on, and all is well once it lets go."""
    monkeypatch.setattr("tiering.store.directory_files.LOCK_SECONDS_MAX", 0.05)
    store: Any = await open_test_store(f"file://{tmp_path}/store")
    await store.put("x", b"before")
    with (tmp_path / "store/.hotlog-store/lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="lock"):
                await store._store.put("x", b"during")  # below the retries: they would go on asking
        assert bytes((await store.get("x")).data) == b"before"
    await store.put("x", b"after")
    assert bytes((await store.get("x")).data) == b"after"


async def test_an_upload_of_a_killed_process_is_never_visible_and_can_be_aborted(
    tmp_path: Path, open_test_store: OpenStore
) -> None:
    url = f"file://{tmp_path}/store"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS_UPLOAD, url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"half way\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = await open_test_store(url)
    with pytest.raises(NotFound):
        await store.head("data/large.seg")
    uploads = [upload async for upload in store.list_uploads("data/")]
    assert [upload.key for upload in uploads] == ["data/large.seg"]
    await store.abort_upload(uploads[0])
    assert [upload async for upload in store.list_uploads("")] == []
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != "lock"]
    assert left == []


async def test_small_writes_of_killed_processes_are_swept_after_an_hour(tmp_path: Path) -> None:
    clock = HandClock(seconds=0.0)
    store = await open_with(tmp_path, clock)
    await store.close()
    staged = tmp_path / ".hotlog-store" / "tmp" / "abandoned"
    staged.write_bytes(b"half")
    os.utime(staged, ns=(clock.ms * 1_000_000,) * 2)
    clock.ms += 59 * 60_000
    await (await open_with(tmp_path, clock)).close()
    assert staged.exists(), "it may still be written"
    clock.ms += 2 * 60_000
    await (await open_with(tmp_path, clock)).close()
    assert not staged.exists()


async def test_objects_are_plain_files(tmp_path: Path, open_test_store: OpenStore) -> None:
    store = await open_test_store(f"file://{tmp_path}/store")
    await store.put("meta/head", b"root")
    await store.put_source("data/a.seg", BytesSource(b"x" * 9 * MiB))
    assert (tmp_path / "store/meta/head").read_bytes() == b"root"
    assert (tmp_path / "store/data/a.seg").stat().st_size == 9 * MiB
    assert list((tmp_path / "store/.hotlog-store/tmp").iterdir()) == []
    assert list((tmp_path / "store/.hotlog-store/uploads").iterdir()) == []


async def test_the_stores_own_files_are_no_objects(tmp_path: Path, open_test_store: OpenStore) -> None:
    store = await open_test_store(f"file://{tmp_path}/store")
    await store.put("x", b"")
    assert [info.key async for info in store.list("")] == ["x"]
    assert [info.key async for info in store.list(".hot")] == []


async def test_a_symbolic_link_is_not_an_object(tmp_path: Path, open_test_store: OpenStore) -> None:
    store = await open_test_store(f"file://{tmp_path}/store")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "store/link").symlink_to(tmp_path / "secret")
    with pytest.raises((NotFound, StoreUnavailable)):
        await store.get("link")
    assert [info.key async for info in store.list("")] == []
    await store.put("link", b"replaces the link, not its target")
    assert (tmp_path / "secret").read_bytes() == b"secret"


async def test_an_object_under_an_object_is_refused_with_the_reason(tmp_path: Path, open_test_store: OpenStore) -> None:
    store = await open_test_store(f"file://{tmp_path}/store")
    await store.put("a/b", b"x")
    with pytest.raises(Invalid, match="cannot hold"):
        await store.put("a/b/c", b"x")
    with pytest.raises(Invalid, match="cannot hold"):
        await store.put("a", b"x")


async def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path, open_test_store: OpenStore) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Invalid, match="cannot be used"):
        await open_test_store(f"file://{tmp_path}/file")


async def test_empty_folders_go_with_their_last_object(tmp_path: Path, open_test_store: OpenStore) -> None:
    store = await open_test_store(f"file://{tmp_path}/store")
    await store.put("data/ab/topic/0/manifest", b"x")
    await store.put("data/ab/other", b"x")
    await store.delete(["data/ab/topic/0/manifest"])
    assert sorted(path.name for path in (tmp_path / "store/data/ab").iterdir()) == ["other"]


async def test_a_full_disk_is_the_store_being_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_with(tmp_path, HandClock(seconds=0.0))
    first = await store.put("root", b"one")

    def full(fd: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tiering.store.file_calls.os.write", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await store.put("root", b"two", if_match=first)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await store.put_source("large", BytesSource(b"x"))
    assert bytes((await store.get("root")).data) == b"one"
    assert [upload async for upload in store.list_uploads("")] == []
    await store.put("root", b"two", if_match=first)
    with pytest.raises(PreconditionFailed):
        await store.put("root", b"three", if_match=first)
    await store.close()


async def test_a_read_in_progress_sees_one_version(tmp_path: Path) -> None:
    store = await open_with(tmp_path, HandClock(seconds=0.0))
    bodies = [bytes([number]) * 3 * MiB for number in range(6)]
    await store.put("x", bodies[0])

    async def rewrite() -> None:
        for body in bodies:
            await store.put("x", body)

    async def read() -> None:
        for _ in range(12):
            blob = await store.get("x")
            assert bytes(blob.data) in bodies

    await asyncio.gather(rewrite(), read(), read())
    await store.close()


async def test_a_rename_whose_directory_cannot_be_synced_is_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new object can be seen: a conditional writer must read back, not believe that nothing happened."""
    store = await open_with(tmp_path, HandClock(seconds=0.0))
    first = await store.put("root", b"one")

    def fails(path: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("tiering.store.directory_files.sync_dir", fails)
        with pytest.raises(OutcomeUnknown, match="Input/output"):
            await store.put("root", b"two", if_match=first)
        with pytest.raises(StoreUnavailable, match="Input/output"):
            await store.put("root", b"three")
    assert bytes((await store.get("root")).data) == b"three"
    await store.close()
