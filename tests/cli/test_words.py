"""One line for every error, the right exit code, nothing made by looking, and the shell's help.

Whatever the words are, `main` answers with one of EXITS, at most one line to stderr beside remarks, and no traceback.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from confluent_kafka import KafkaError, KafkaException

from hotlog.cli import app as command
from hotlog.cli.app import EXITS, VERBS, Terminated, main
from hotlog.kernel.errors import Corrupt, DiskFull, ForeignStore, HotlogError, Invalid, NotFound, StoreUnavailable
from tests.cli.conftest import Run, environment, started
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.ports import free_ports

TYPO = "no-such-topic"
# Every reading verb, aimed at a place that is not there.
READING = [
    ["consume", TYPO, "-e"], ["consume", TYPO, "-g", "g", "-e"], ["consume", TYPO, "-p", "0", "-n", "1"], ["replay", TYPO],
    ["replay", TYPO, "--direct"], ["manifest", "show", TYPO], ["manifest", "verify", TYPO], ["topic", "describe", TYPO],
    ["topic", "alter", TYPO, "-c", "retention.ms=1"], ["topic", "delete", TYPO, "--yes"], ["cost"], ["export", TYPO, "--to", "lake"],
    ["worker", "retention", "--once"], ["worker", "compaction", "--dry-run"],
]  # fmt: skip


@pytest.mark.parametrize("store", [True, False], ids=["a store that is not there", "the default store"])
@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reading_makes_nothing(run: Run, tmp_path: Path, arguments: list[str], store: bool) -> None:
    takes_store = arguments[0] in ("manifest", "cost", "export", "worker") or "--direct" in arguments
    before = run("topic", "list").out
    said = run(*arguments, *(["--store", f"file://{tmp_path}/no/store"] if store and takes_store else []))
    assert said.code in (1, 2)
    assert len(said.err.splitlines()) == 1, said.err
    assert os.listdir(tmp_path) == []
    assert os.listdir() == [], "the working directory"
    assert run("topic", "list").out == before


def test_checking_a_directory_leaves_nothing(run: Run, tmp_path: Path) -> None:
    assert run("store", "check", "--store", f"file://{tmp_path}/a/b/store").code == 0
    assert os.listdir(tmp_path) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    assert run("store", "check", "--store", f"file://{tmp_path}/there").code == 0
    assert os.listdir(tmp_path / "there") == ["mine"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (HotlogError("x"), 1),
        (NotFound("x"), 1),
        (ForeignStore("x"), 1),
        (Invalid("x"), 2),
        (StoreUnavailable("x"), 3),
        (DiskFull("x"), 3),
        (Corrupt("x"), 4),
        (OSError(errno.ENOSPC, "No space left on device", "/data"), 3),
        (OSError(errno.EACCES, "Permission denied", "/data"), 1),
        (ExceptionGroup("two", [Corrupt("x")]), 4),
        (ZeroDivisionError("x"), 1),
        (KafkaException(KafkaError(KafkaError._FAIL)), 1),
        (typer.Abort(), 1),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0),
        (SystemExit(3), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_failure_has_its_exit_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failure: BaseException, code: int
) -> None:
    def fails(arguments: list[str]) -> int:
        raise failure

    monkeypatch.setattr(command, "_run", fails)
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # a broken pipe closes the outputs for good
    assert main([]) == code
    assert code in EXITS
    is_quiet = isinstance(failure, KeyboardInterrupt | BrokenPipeError | SystemExit)
    assert len(capfd.readouterr().err.splitlines()) == (0 if is_quiet else 1)


def test_the_documents_list_the_exit_codes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for code, meaning in EXITS.items():
        assert f"| {code} | {meaning} |" in page


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["topik", "list"], "did you mean topic?"),
        (["exprot", "t"], "did you mean export?"),
        (["topic", "crate", "t"], "create"),
        (["consume", "t", "--untl", "now"], "--until"),
        (["consume", "t", "--unti-end"], "--until-end"),
        (["produce", "t", "--skip-bat"], "--skip-bad"),
        (["xyzzy"], "verbs: serve, topic"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_near_miss_is_suggested(run: Run, arguments: list[str], near: str) -> None:
    said = run(*arguments)
    assert (said.code, near in said.err, len(said.err.splitlines())) == (2, True, 1), said.err


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS), ["topic", "create"], ["manifest", "show"]], ids=" ".join)
def test_h_is_help(run: Run, verb: list[str]) -> None:
    short, long = run(*verb, "-h"), run(*verb, "--help")
    assert (short, short.code, "Usage" in short.out) == (long, 0, True)


def test_levels_of_the_log_are_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTLOG_LOG", "nope")
    for verb in (["topic", "list"], ["serve"]):
        said = run(*verb)
        assert (said.code, "HOTLOG_LOG='nope'" in said.err, len(said.err.splitlines())) == (2, True, 1)
    monkeypatch.setenv("HOTLOG_LOG", "error")
    assert run("topic", "list").code == 0


@pytest.mark.parametrize(
    "verb",
    [["topic", "list"], ["topic", "create", "t"], ["topic", "describe", "t"], ["topic", "delete", "t", "-y"], ["produce", "t"],
     ["consume", "t"], ["consume", "t", "-g", "g"], ["replay", "t"], ["replay", "t", "--direct", "--to", "t"]],
    ids=" ".join,
)  # fmt: skip
def test_a_broker_that_is_down_is_told_with_its_address(run: Run, verb: list[str]) -> None:
    (port,) = free_ports(1)
    said = run(*verb, "-b", f"127.0.0.1:{port},localhost:{port}")
    assert (said.code, said.out) == (3, "")
    assert f"127.0.0.1:{port} (Connection refused)" in said.err
    assert f"localhost:{port}" in said.err
    for wrong in ("nowhere:port", "host:99999", ":9092", ",", "127.0.0.1:0"):
        assert run(*verb, "-b", wrong).code == 2
    assert run(*verb, "-b", "no-such-host.invalid:9092").code == 3


def test_a_reader_with_an_end_gives_up_when_its_broker_goes(tmp_path: Path) -> None:
    from hotlog.cli.client import consumer
    from hotlog.cli.reading import Reading, Stretch
    from hotlog.kernel.errors import Retry

    server = HotlogServer(folder=tmp_path / "broker")
    server.start()
    client = consumer(server.bootstrap)
    try:
        plan = [Stretch("t", 0, 0, 10)]
        server.kill()
        reading = Reading(client, plan, stall_s=1.0)
        reading.assign(plan)
        with pytest.raises(Retry, match="nothing came for 1 s; stopped at t-0 offset 0"):
            list(reading.batches())
    finally:
        client.close()
        server.stop()


def test_a_second_sigterm_is_not_needed(broker: HotlogServer, topic: str) -> None:
    follower = started(broker, "consume", topic, "--from", "earliest", "-g", f"g-{topic}")
    follower.terminate()
    _, said = follower.communicate(timeout=PATIENCE_S)
    assert follower.returncode in (143, -15)  # -15: before the interpreter was up
    assert b"Traceback" not in said


@pytest.mark.parametrize("bytes_max", [0, 100, 3000])
def test_a_disk_that_takes_no_more_is_told_without_a_traceback(tmp_path: Path, bytes_max: int) -> None:
    """A limit on what a file may hold stops the start at one place or another."""
    (port, http), data = free_ports(2), tmp_path / "full"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_max}, {bytes_max})); " + (
        "from hotlog.__main__ import main; main()"
    )
    serve = ["serve", "--data-dir", str(data), "--listen", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http}"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *serve], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode in (1, 2, 3)
    assert "Traceback" not in done.stderr, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("hotlog: ")]) == 1


# Completion


def completed(broker: HotlogServer, *words: str) -> list[str]:
    asked = {"_HOTLOG_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(["hotlog", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run(
        [sys.executable, "-m", "hotlog"], env={**environment(broker), **asked}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_knows_topics_and_never_complains(broker: HotlogServer, topic: str, tmp_path: Path) -> None:
    for verb in (["consume"], ["topic", "describe"], ["topic", "delete", "other"], ["replay"], ["produce"]):
        assert topic in completed(broker, *verb, topic[:-1])
    (port,) = free_ports(1)
    assert completed(broker, "consume", "-b", f"127.0.0.1:{port}", "t") == []
    assert completed(broker, "manifest", "show", "--store", f"file://{tmp_path}/none", "t") == []
    store = ["--store", (broker.data / "store").as_uri()]
    for verb in (["manifest", "show"], ["manifest", "verify"], ["replay", "--direct"]):
        assert topic in completed(broker, *verb, *store, topic[:-1])
    assert "consume" in completed(broker, "cons")


# Bad values everywhere

HOSTILE = [
    "", " ", "-", "--", "0", "-1", "1e9", "NaN", "9" * 25, "-" + "9" * 25, "@", "@-1", "a=b", "=", "a=", "\x00", "\x1b[31m", "[/red]", "é",
    "\udcff", "/", "..", "file:///", "file:///no/such", "s3://", "s3://ab", "s3://bucket?endpoint=http://u:p@h", "http://x", "t" * 300,
    "{", "%", "brotli", "yesterday-ish", "-9999999w", "0001-01-01", "127.0.0.1:99999",
]  # fmt: skip
# Verbs that would run for long or do much when their words happen to be right.
SKIPPED = {"serve", "demo"}


def commands() -> Iterator[tuple[list[str], Any]]:
    for verb in VERBS:
        if verb in SKIPPED:
            continue
        found = typer.main.get_command(__import__(f"hotlog.cli.{VERBS[verb][0]}", fromlist=["app"]).app)
        for name, each in getattr(found, "commands", {}).items():
            yield [verb, name], each
        if not hasattr(found, "commands"):
            yield [verb], found


@pytest.mark.parametrize(("words", "found"), [pytest.param(w, c, id=" ".join(w)) for w, c in commands()])
def test_no_word_ends_in_a_traceback(
    run: Run, words: list[str], found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option and argument with each hostile value, the others right or absent."""
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    monkeypatch.setattr("hotlog.cli.reading.STALL_SECONDS", 5.0)
    draw = random.Random(" ".join(words))
    needed = ["typo"] * sum(p.param_type_name == "argument" and p.required for p in found.params)
    fixed = [
        *(["--to", str(tmp_path / "lake")] if words == ["export"] else []),
        *(["--once"] if words == ["worker", "retention"] else []),
    ]
    ends = {"consume": ["-e"], "topic delete": ["--yes"]}.get(" ".join(words), [])
    for param in found.params:
        for value in draw.sample(HOSTILE, 12):
            if param.param_type_name == "argument":
                line = [*words, *ends, *fixed, "--", value]
            elif getattr(param, "is_flag", False):
                line = [*words, *needed, *ends, *fixed, param.opts[-1]]
            else:
                line = [
                    *words,
                    *needed,
                    *ends,
                    *fixed,
                    f"{param.opts[0]}={value}" if param.opts[0].startswith("--") else param.opts[0],
                ]
                line += [] if param.opts[0].startswith("--") else [value]
            said = run(*line)
            assert said.code in EXITS, (line, said)
            assert "fault of Hotlog" not in said.err, (line, said)
            assert "Traceback" not in said.err, (line, said)
