"""A `hotlog` process as users have it: without the libraries of tests that other libraries pick up where they find them.

kio brings strategies for hypothesis, and imports all of it for that: a quarter of what a start of `hotlog` costs.  A plain install has no
hypothesis (`.ci/plain-install` runs one); `sitecustomize.py` of this folder hides it from the processes that tests start.
"""

from __future__ import annotations

import os
from pathlib import Path


def plain_environment(*, tree: Path | None = None, **more: str) -> dict[str, str]:
    """The environment of this process and `more`, for a `hotlog` process; of the checkout `tree` where one is given."""
    search = os.environ.get("PYTHONPATH") if tree is None else str(tree)
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), search)))
    return {**os.environ, "PYTHONPATH": path, **more}
