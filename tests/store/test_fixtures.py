"""The S3 fixture itself: a stand-in is never silent, and never where MinIO is demanded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest
from tests.fixtures import minio as fixture
from tests.fixtures.docker_engine import serve


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No engine, no binary, no Go."""

    def no_go(name: str = "minio") -> str:
        raise serve.NoBinary("there is no Go")

    monkeypatch.delenv("HOTLOG_REQUIRE_MINIO", raising=False)
    monkeypatch.delenv("HOTLOG_MINIO", raising=False)
    monkeypatch.setattr(fixture.docker_engine, "answers", lambda: False)
    monkeypatch.setattr(serve, "find_binary", lambda *_: None)
    monkeypatch.setattr(serve, "build", no_go)
    return monkeypatch


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stats: dict[str, list[object]] = {}

    def write_line(self, line: str, **_: bool) -> None:
        self.lines.append(line)


def test_a_stand_in_says_so_in_the_last_lines(
    bare_machine: pytest.MonkeyPatch, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    with fixture.minio_server(tmp_path) as server:
        bucket = server.make_bucket()
        assert [each["Name"] for each in server.client().list_buckets()["Buckets"]] == [bucket]
        report, kept = Lines(), pytestconfig.stash[conftest.SERVED]
        pytestconfig.stash[conftest.SERVED] = [server.kind]
        try:
            conftest.pytest_terminal_summary(report, pytestconfig)  # type: ignore[arg-type]
        finally:
            pytestconfig.stash[conftest.SERVED] = kept
    assert any("SeaweedFS stands in for MinIO: there is no Go" in line for line in report.lines)


@pytest.mark.parametrize(("name", "value"), [("HOTLOG_REQUIRE_MINIO", "1"), ("HOTLOG_MINIO", "native")])
def test_no_stand_in_where_minio_is_demanded(bare_machine: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str) -> None:
    bare_machine.setenv(name, value)
    with pytest.raises(RuntimeError, match="MinIO is demanded"), fixture.minio_server(tmp_path):
        pass


def test_a_container_that_is_demanded_is_not_replaced(bare_machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_machine.setenv("HOTLOG_MINIO", "container")
    bare_machine.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(Exception, match=r"(?i)docker|connection"), fixture.minio_server(tmp_path):
        pass
