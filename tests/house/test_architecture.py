"""docs/architecture.md names rooms and files that are there, and each answer to "where to" is one or two of them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ANSWERS = ("acks wait", "storage class", "SASL mechanism", "kind of coordinator", "a worker", "a Kafka API")


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def files_of(text: str) -> list[str]:
    """Paths from the root that are named as code."""
    return re.findall(r"`((?:hotlog|tiering|compaction|controller|tests)/[\w./-]+)`", text)


def test_each_question_is_answered_by_one_or_two_files_that_are_there() -> None:
    rows = [line for line in section("Where to").splitlines() if line.startswith("| ")][1:]
    assert [any(words in row.split("|")[1] for row in rows) for words in ANSWERS] == [True] * len(ANSWERS)
    assert [row for row in rows if not 1 <= len(files_of(row)) <= 2] == []
    assert [name for row in rows for name in files_of(row) if not (ROOT / name).exists()] == []


def test_every_room_and_file_that_the_tour_names_is_there() -> None:
    assert [name for name in files_of(PAGE) if not (ROOT / name).exists()] == []
    short = re.findall(r"`((?:front|apis|wire|partitions|log|broker|coordinators)/[\w/]+)`", PAGE)
    assert short
    assert [
        name for name in short if not (ROOT / "hotlog" / f"{name}.py").exists() and not (ROOT / "hotlog" / name).is_dir()
    ] == []


def test_every_package_has_its_floor() -> None:
    rooms = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "hotlog").glob("*/__init__.py")}
    named = {name.rstrip("/") for name in files_of(section("Floors"))}
    assert rooms - named == set()


def test_a_request_passes_fewer_than_ten_rooms() -> None:
    for title in ("Produce", "A fetch, three months old"):
        walk = re.search(r"```\n(.*?)```", section(title), re.DOTALL)
        assert walk is not None
        rooms = re.findall(r"^(?:hotlog|tiering)/\w+", walk[1], re.MULTILINE)  # that they are the real ones: test_walks.py
        assert 3 < len(rooms) == len(set(rooms)) < 10
