"""Every command of our pages is run, word for word; every sample is fed to what it is a sample for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from hotlog.cli.app import VERBS
from tests.docs.pages import ROOT, blocks, commands, inline_commands
from tests.docs.stories import STORIES
from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment
from tiering.cost import load_book

# Run by .ci/run, word for word.
FIRST, SECOND = [command.text for command in commands() if command.page == "README.md"][:2]
# Shown, but not to be run by a test, and why.
NOT_RUN = {
    "docker compose -f infra/minio/compose.yaml up --wait": "its images come from a registry; the store tests run MinIO in a container",
}
STORY_TIMEOUT_S = 4 * PATIENCE_S


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All commands that the stories typed."""
    typed: set[str] = set()
    for name in STORIES:
        folder = tmp_path_factory.mktemp(name) / "first"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.story", name, str(folder)], cwd=ROOT, capture_output=True, text=True,
            timeout=STORY_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        typed |= set(done.stdout.splitlines())
    return typed


@pytest.mark.timeout(len(STORIES) * STORY_TIMEOUT_S)
def test_every_command_is_run_word_for_word(told: set[str]) -> None:
    shown = {command.text for command in commands()}
    assert shown - {FIRST, SECOND} - told == set(), "shown on a page, typed in no story of tests/docs/stories.py"


def test_the_two_commands_are_run_by_ci() -> None:
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert FIRST.endswith("hotlog demo")
    assert ".venv/bin/python -m tests.docs.first_command" in script
    assert SECOND in script


def test_commands_in_running_text_exist() -> None:
    """A mention has a verb of ours and flags that the verb knows; a make target exists; anything else is a whole command that is run."""
    helps: dict[str, str] = {}
    wrong = []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    stories = (ROOT / "tests/docs/stories.py").read_text()
    for page, text in inline_commands():
        program, *words = text.split()
        if program == "make":
            ok = words[0] in targets
        elif program == "hotlog":
            ok = _is_known(words, helps)
        else:
            ok = text in NOT_RUN or f'"{program} "' in stories
        if not ok:
            wrong.append(f"{page}: {text}")
    assert wrong == []


def _is_known(words: list[str], helps: dict[str, str]) -> bool:
    if words[0] == "ready" or words[0].endswith(":"):  # what `hotlog serve` prints
        return True
    verbs = re.split(r"[|,]", " ".join(words).split(" ")[0])
    path = []
    for word in words:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        path.append(word)
    path = path[:2] if path and path[0] in ("topic", "store", "manifest", "worker", "group") else path[:1]
    if path and any(verb not in VERBS for verb in verbs):
        return False
    key = " ".join(path)
    if key not in helps:
        done = subprocess.run(
            [sys.executable, "-m", "hotlog", *path, "--help"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=plain_environment(),
        )
        helps[key] = done.stdout if done.returncode == 0 else ""
    return all(flag in helps.get(key, "") for flag in re.findall(r"--[a-z-]+", " ".join(words)) if flag != "--help")


def test_python_samples_run() -> None:
    samples = [block for block in blocks() if block.language == "python"]
    assert samples
    for block in samples:
        exec(compile(block.text, block.page, "exec"), {})


def test_toml_samples_are_taken() -> None:
    for block in blocks():
        if block.language == "toml":
            assert load_book(block.text).provider("aws-us-east-1").storage_class().storage == ((0.0, 0.018),)


def test_shell_blocks_are_commands_bash_can_read() -> None:
    for command in commands():
        assert shlex.split(command.text, comments=True), command
