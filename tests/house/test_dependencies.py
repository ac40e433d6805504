"""What the packages import is what pyproject.toml declares: an install without extras has all of it (.ci/plain-install tries it)."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("hotlog", "tiering", "compaction", "controller")
NOT_PLAIN = {"demo": ("hotlog/cli/demo.py", "hotlog/cli/demo_data.py")}  # extra -> who may import what it brings


def declared() -> dict[str, set[str]]:
    """Distributions by extra; "" are those of every install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: {normal(re.split(r"[\[<>=~;! ]", line)[0]) for line in lines} for name, lines in groups.items()}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """Top-level names of other people's modules, wherever in the file they are imported; what only type checkers see is left out."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return {name for name in names if name not in sys.stdlib_module_names and name not in OURS}


def test_every_import_is_a_declared_dependency() -> None:
    groups, owners = declared(), packages_distributions()
    missing = []
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            allowed = groups[""].union(*(groups[extra] for extra, files in NOT_PLAIN.items() if where in files))
            missing += [
                (where, name) for name in imported(path) if not {normal(owner) for owner in owners.get(name, [name])} & allowed
            ]
    assert missing == []


def test_no_install_needs_a_compiler() -> None:
    """What is built from C is optional, and one build serves every Python (.ci/plain-install installs without a compiler too)."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["ext-modules"]
    for extension in setuptools["ext-modules"]:
        assert extension["optional"] is True
        assert extension["py-limited-api"] is True
        assert all((ROOT / source).is_file() for source in extension["sources"])
