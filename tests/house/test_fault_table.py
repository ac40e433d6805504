"""docs/faults.md names only tests that exist, and every fault the broker must survive has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ONE_BROKER = {1, 2, 4, *range(8, 15), 20, *range(22, 31), 36, 37, 39, 40}
NAMED = re.compile(r"`([a-z0-9_/]+\.py)(?:::(test_\w+))?`")


def rows() -> dict[int, list[tuple[str, str]]]:
    """Fault number to (test file, test name or "" for the whole file)."""
    lines = (ROOT / "docs" / "faults.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| \d+ \|", line)]
    return {int(number): NAMED.findall(named) for number, _, _, named in cells}


def found_by_others() -> dict[str, list[tuple[str, str]]]:
    """What others found to the tests that hold it."""
    text = (ROOT / "docs" / "faults.md").read_text().partition("## Found by others")[2]
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
    return {line.split(" | ")[0]: NAMED.findall(line.rsplit(" | ", 1)[1]) for line in lines}


def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")}


def test_every_fault_of_one_broker_is_in_the_table() -> None:
    assert set(rows()) >= ONE_BROKER
    assert all(rows().values()), "each row names a test"


def test_what_others_found_has_a_test_each() -> None:
    found = found_by_others()
    assert len(found) > 100
    assert [what for what, named in found.items() if not named] == []


def test_every_test_in_the_table_exists() -> None:
    missing = [
        f"fault {number}: {path}::{name}"
        for number, named in [*rows().items(), *found_by_others().items()]
        for path, name in named
        if not (ROOT / "tests" / path).is_file() or (name and name not in names_in(path))
    ]
    assert missing == []
