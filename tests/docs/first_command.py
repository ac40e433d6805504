"""`python -m tests.docs.first_command`: the README's first command, word for word, in a fresh clone of this checkout, until it has told its story.

CI runs it; it needs a package registry.  The interpreter it takes is the `python3` on PATH, as a stranger's would be.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.docs.pages import ROOT, commands
from tests.docs.story import Reader, StoryFailed

MINUTES_MAX = 20


def first_command() -> str:
    """The command that sets up and runs the main job."""
    return next(each.text for each in commands() if each.page == "README.md")


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script in the background ignores Ctrl-C, and so would the demo
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"):  # a stranger has none of them
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="hotlog-stranger-") as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), f"{folder}/hotlog"], check=True)
        reader = Reader(Path(folder) / "hotlog", patience_s=MINUTES_MAX * 60)
        try:
            print(reader.starts(first_command(), "Ctrl-C ends it."))
            reader.interrupt()
        except StoryFailed as failed:
            print(failed, file=sys.stderr)
            return 1
        finally:
            reader.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
