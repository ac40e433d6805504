"""The tiers of a partition are joined in hotlog/partitions alone: nobody else looks at a partition's cold tier, or has its parts."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.test_house import ROOT, SOURCES

FACE = "hotlog/partitions/"
COLD = ("tiering.cold_partition", "tiering.read", "tiering.cache")  # what a partition's cold tier is made of
ABOVE = (
    "hotlog/front/",
    "hotlog/apis/",
    "hotlog/answers/",
    "hotlog/broker/",
    "hotlog/coordinators/",
    "hotlog/observe/",
    "compaction/",
)


def of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_nobody_but_the_face_looks_at_the_cold_tier_of_a_partition() -> None:
    found = []
    for path in SOURCES:
        if of(path).startswith((FACE, "tiering/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "cold":
                found.append(f"{of(path)}:{node.lineno}")
    assert found == []


def test_nobody_above_the_face_imports_what_the_cold_tier_is_made_of() -> None:
    found = []
    for path in SOURCES:
        if not of(path).startswith(ABOVE):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{of(path)}: {name}" for name in names if name.startswith(COLD)]
    assert found == []


def test_doors_and_coordinators_know_no_tier() -> None:
    """Not the store, and of the log only what its answers are and how much is written on the loop."""
    doors = ("hotlog/front/", "hotlog/apis/", "hotlog/answers/")
    allowed = {"hotlog.log.reader", "hotlog.log.writer", "hotlog.log.large_appends"}
    found = []
    for path in SOURCES:
        if not of(path).startswith(("hotlog/front/", "hotlog/apis/", "hotlog/answers/", "hotlog/coordinators/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "log" and of(path).startswith(doors):
                found += [f"{of(path)}:{node.lineno}: a partition's log"]
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("tiering", "hotlog.log")):
                found += [f"{of(path)}: {node.module}"] if node.module not in allowed else []
    assert found == []
