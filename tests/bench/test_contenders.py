"""Another checkout beside this one: its own code runs, whatever the path and the folder of the bench are."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.contenders import HOTLOG, KAFKA, PACKAGES, ROOT, NotACheckout, contenders_of, description_of, run_in
from tests.bench.settings import Durability
from tests.bench.targets import ApacheKafka, Hotlog, target_of
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment

# A `hotlog serve` that only says where it came from, and then waits to be ended.
MAIN = """
import pathlib, signal, sys
data = pathlib.Path(sys.argv[sys.argv.index("--data-dir") + 1])
data.mkdir(parents=True)
(data / "place").write_text(__file__)
print("hotlog ready on 127.0.0.1:1", flush=True)
signal.pause()
"""


def make_tree(folder: Path, *, without: str = "") -> Path:
    for package in set(PACKAGES) - {without}:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    (folder / "hotlog" / "__main__.py").write_text(MAIN)
    return folder


def test_targets_are_kafka_this_checkout_and_paths(tmp_path: Path) -> None:
    one, other = make_tree(tmp_path / "one"), make_tree(tmp_path / "other")
    found = contenders_of([KAFKA, HOTLOG, f"before={one}", str(other)])
    assert [(each.name, each.tree, each.title) for each in found] == [
        (KAFKA, None, "Kafka"),
        (HOTLOG, ROOT, "Hotlog"),
        ("before", one, "before"),
        ("other", other, "other"),
    ]
    made = [target_of(each, folder=tmp_path, durability=Durability.FSYNC) for each in found]
    assert [type(each) for each in made] == [ApacheKafka, Hotlog, Hotlog, Hotlog]
    assert [(each.name, each.tree) for each in made[1:] if isinstance(each, Hotlog)] == [
        (HOTLOG, ROOT),
        ("before", one),
        ("other", other),
    ]


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotACheckout, match=r"has no hotlog/__main__\.py"):
        contenders_of([str(tmp_path)])
    with pytest.raises(NotACheckout, match=r"imports|No module named 'tiering'"):
        contenders_of([str(make_tree(tmp_path / "half", without="tiering"))])
    tree = make_tree(tmp_path / "one")
    with pytest.raises(NotACheckout, match="two targets have one name"):
        contenders_of([f"a={tree}", f"a={tree}"])
    with pytest.raises(NotACheckout, match="kafka is taken"):
        contenders_of([f"kafka={tree}"])


def test_a_broker_of_another_checkout_runs_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(ROOT)
    tree = make_tree(tmp_path / "one")
    server = HotlogServer(folder=tmp_path / "broker", tree=tree)
    server.start()
    server.stop()
    assert Path((server.data / "place").read_text()) == tree / "hotlog" / "__main__.py"
    assert run_in(tree, "import hotlog; print(hotlog.__file__)").strip() == str(tree / "hotlog" / "__init__.py")


def test_the_report_says_what_of_a_checkout_is_compiled(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "one")
    assert description_of(tree).endswith("nothing compiled")
    other = make_tree(tmp_path / "other")
    (other / "hotlog" / "_fast.abi3.so").touch()
    assert description_of(other).endswith("compiled: _fast")


def test_a_bench_that_is_terminated_writes_what_it_has_and_leaves_nothing(tmp_path: Path) -> None:
    """It is ended while the broker of a checkout waits for its second request, which none of these answers."""
    tree = make_tree(tmp_path / "tree")
    options = [
        "--quick",
        "--workload",
        "sessions",
        "--target",
        str(tree),
        "--scratch",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    bench = subprocess.Popen(
        [sys.executable, "-m", "tests.bench", *options], cwd=ROOT, env=plain_environment(), stdout=subprocess.DEVNULL
    )
    give_up = time.monotonic() + PATIENCE_S
    while not (places := list(tmp_path.glob("hotlog-bench-*/*/hotlog/data/place"))) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert places, "the broker began"
    bench.terminate()
    assert bench.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert (tmp_path / "out" / "results.json").exists()
    assert list(tmp_path.glob("hotlog-bench-*")) == []
