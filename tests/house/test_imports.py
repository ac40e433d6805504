"""The imports are acyclic file by file, those that only a type checker sees and those inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("hotlog", "tiering", "compaction", "controller")
Graph = Mapping[str, set[str]]


def sources() -> dict[str, str]:
    """Module -> its text."""
    paths = (path for package in OURS for path in sorted((ROOT / package).rglob("*.py")))
    return {_module_of(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}


def _module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(texts: Mapping[str, str]) -> Graph:
    """Module -> modules among `texts` that it names in an import, wherever that import stands."""
    return {module: set(_imported(text, texts)) - {module} for module, text in texts.items()}


def _imported(text: str, known: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path, so that they can be searched for"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield str(node.module)


def circles(graph: Graph) -> list[list[str]]:
    """A shortest circle through each module that is on one, each circle once; sorted."""
    found = {}
    for module in graph:
        circle = _shortest(graph, module)
        if circle:
            found.setdefault(frozenset(circle), circle)
    return sorted(found.values())


def _shortest(graph: Graph, start: str) -> list[str]:
    paths, edge = {start: [start]}, [start]
    while edge:
        before, edge = edge, []
        for module in before:
            for used in sorted(graph[module]):
                if used == start:
                    return paths[module]
                if used not in paths:
                    paths[used] = [*paths[module], used]
                    edge.append(used)
    return []


def told(circle: list[str]) -> str:
    return " -> ".join([*circle, circle[0]])


def test_no_import_leads_back_to_its_own_file() -> None:
    found = circles(graph_of(sources()))
    assert found == [], "; ".join(map(told, found))


@pytest.mark.parametrize(
    "line",
    [
        "import hotlog.compose\n",
        "from hotlog import compose\n",
        "from hotlog.compose import Node\n",
        "if TYPE_CHECKING:\n    from hotlog.compose import Node\n",
        "def late() -> None:\n    from hotlog.compose import Node\n",
    ],
)
def test_a_planted_circle_is_found(line: str) -> None:
    """compose uses the ground; the ground must not use compose, in whatever way that is written."""
    texts = sources()
    texts["hotlog.kernel.errors"] += line
    found = circles(graph_of(texts))
    assert any({"hotlog.compose", "hotlog.kernel.errors"} <= set(circle) for circle in found), found


def test_circles_are_named_shortest_first_way_round() -> None:
    graph = {"a": {"b", "c"}, "b": {"a"}, "c": {"d"}, "d": {"a", "e"}, "e": set()}
    assert circles(graph) == [["a", "b"], ["c", "d", "a"]]
