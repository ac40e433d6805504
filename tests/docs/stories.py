"""What a reader of our pages does, page by page.  Each story types the page's commands word for word, and says what must come of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.docs.pages import ROOT, commands, inline_commands
from tests.docs.story import Reader

READY = "hotlog ready on 127.0.0.1:9092"
_HISTORY = f"{sys.executable} -m tests.docs.history"


def of(page: str, word: str) -> str:
    """The one command of a page that has `word` in it."""
    found = [each.text for each in commands() if each.page == page and word in each.text]
    assert len(found) == 1, f"{page}: {len(found)} commands with {word!r}"
    return found[0]


def use_it(reader: Reader) -> None:
    """README, "Use it": a broker on a directory, a topic, history out of it, its bill."""
    page = "README.md"
    reader.starts(of(page, "hotlog serve    "), READY)
    reader.types(of(page, "topic create"))
    reader.does(f"{_HISTORY} clicks 2026-01-15 2026-06-15")
    reader.types(of(page, "hotlog replay"))
    replayed = (reader.folder / "history.jsonl").read_text().splitlines()
    assert len(replayed) == 89, f"a record a day from February to April, not {len(replayed)}"
    reader.types(of(page, "hotlog export"))
    assert list((reader.folder / "lake").rglob("*.parquet")), "files were written"
    assert "storage only" in reader.types(of(page, "hotlog cost"))
    reader.types(of(page, "manifest verify"))
    for command in (each.text for each in commands() if each.page == "docs/cost.md"):
        reader.types(command)
    reader.interrupt()


def own_minio(reader: Reader) -> None:
    """infra/minio/README.md without Docker, then README's broker on S3."""
    page = "infra/minio/README.md"
    (reader.folder / "infra").symlink_to(ROOT / "infra")
    started = next(each.text for each in inline_commands() if each.page == page and each.text.startswith("python "))
    reader.starts(started, "MinIO is ready")
    for port in (9000, 9001):
        addresses = set(reader.does(f"{sys.executable} -m tests.docs.listening {port}").split())
        assert {"127.0.0.1"} <= addresses <= {"127.0.0.1", "::1"}, "loopback only, the console too"
    for command in (each.text for each in commands() if each.page == page):
        if command.startswith("hotlog serve"):
            reader.starts(command, READY)
            reader.interrupt()
        else:
            reader.types(command)
    reader.does(
        f"{sys.executable} -c \"import runpy; runpy.run_path('infra/minio/serve.py')['make_bucket']('http://127.0.0.1:9000', 'bucket')\""
    )
    (reader.folder / "hotlog-data").rename(reader.folder / "of-another-bucket")
    reader.starts(of("README.md", "s3://bucket/prefix"), READY)


STORIES: dict[str, Callable[[Reader], None]] = {"use-it": use_it, "own-minio": own_minio}
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
