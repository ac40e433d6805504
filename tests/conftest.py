"""Parts every test may ask for.  Real ones: S3 servers, a disk, a clock.

Invariants: nothing starts unless a test asks for it; what a test made is gone after it (tmp_path, prefixes of its own).
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.ports import ObjectStore
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.fixtures import minio as minio_fixture
from tests.fixtures.docker_engine import serve
from tests.fixtures.s3_servers import S3Server, seaweedfs
from tests.tools.patience import PATIENT_STORE
from tiering.cost.meter import Meter
from tiering.store import open_store

OpenStore = Callable[..., Awaitable[ObjectStore]]
QUICK_FOLDERS = ("tests/admin/", "tests/compaction/", "tests/coordinators/", "tests/log/")
SERVED = pytest.StashKey[list[str]]()
# How long an example takes says how busy the machine is, and nothing else.
hypothesis_settings.register_profile(
    "hotlog", parent=hypothesis_settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("hotlog")


def pytest_configure(config: pytest.Config) -> None:
    # A run in the background may have been told to ignore Ctrl-C; what tests start would inherit that, and some are ended by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[SERVED] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who waits for what cannot come is ended within a minute, where tests run in this process alone and take a second or two."""
    for item in items:
        if item.nodeid.startswith(QUICK_FOLDERS) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(60))


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any("minio" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:  # xdist workers collect too; a lock lets one build
        minio_fixture.build_before_tests()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # an xdist worker tells the controller
        session.config.workeroutput["hotlog_served"] = session.config.stash[SERVED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    output = getattr(node, "workeroutput", None) or {}
    node.config.stash[SERVED].extend(output.get("hotlog_served", ()))  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for kind in sorted(set(config.stash[SERVED])):
        terminalreporter.write_line(f"S3 server of this run: {kind}", yellow="stands in" in kind)
    skipped = {
        str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)
    }
    for reason in sorted(each for each in skipped if "toolchain missing" in each):
        terminalreporter.write_line(f"NOT TESTED: {reason}", yellow=True)


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[S3Server]:
    """MinIO (or its stand-in, see tests/fixtures/minio.py), one per worker."""
    with minio_fixture.minio_server(tmp_path_factory.mktemp("minio")) as server:
        pytestconfig.stash[SERVED].append(server.kind)
        yield server


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The second S3 server."""
    with seaweedfs(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def rclone_binary() -> str:
    """rclone with `serve s3` (1.65 or newer): a server that many have at hand, without atomic conditional writes."""
    binary = serve.find_binary("rclone", ("serve", "s3", "--help"))
    if binary is None and os.environ.get("HOTLOG_REQUIRE_MINIO") == "1":
        binary = serve.build("rclone")
    return binary or pytest.skip(
        "toolchain missing: no rclone with `serve s3` (apt's is too old): `python infra/minio/serve.py --build rclone` makes one, CI does"
    )


@pytest.fixture(scope="session")
def _buckets() -> dict[str, str]:
    return {}


@pytest.fixture
def s3_url(_buckets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[S3Server], str]:
    """`s3_url(server)`: a store URL with a prefix of this test's own; its credentials are in the environment from then on."""

    def make(server: S3Server) -> str:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        if server.endpoint not in _buckets:
            _buckets[server.endpoint] = server.make_bucket()
        return server.url(_buckets[server.endpoint], uuid.uuid4().hex)

    return make


@pytest.fixture
def minio_url(minio: S3Server, s3_url: Callable[[S3Server], str]) -> str:
    """A store URL on MinIO for this test alone."""
    return s3_url(minio)


@pytest_asyncio.fixture
async def open_test_store() -> AsyncIterator[OpenStore]:
    """`await open_test_store(url, meter=..., settings=...)`: a store on the real clock and disk, closed after the test; patient, unless
    the settings say otherwise: a slow machine is no fault of a store's."""
    opened: list[ObjectStore] = []
    disk = PosixDisk()

    async def open_one(url: str, *, meter: Meter | None = None, settings: Settings | None = None) -> ObjectStore:
        store = await open_store(
            url, settings=settings or Settings.resolve(PATIENT_STORE), metrics=Metrics(), clock=SystemClock(), entropy=SystemEntropy(),
            disk=disk, meter=meter,
        )  # fmt: skip
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()
    disk.close()


@pytest.fixture(params=["directory", "minio", "seaweedfs"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each form of store in turn, empty."""
    if request.param == "directory":
        return f"file://{tmp_path}/store"
    server = request.getfixturevalue("minio" if request.param == "minio" else "seaweed")
    url: str = request.getfixturevalue("s3_url")(server)
    return url


@pytest_asyncio.fixture
async def store(store_url: str, open_test_store: OpenStore) -> ObjectStore:
    """Each form of store in turn, opened as a broker opens it."""
    return await open_test_store(store_url)
