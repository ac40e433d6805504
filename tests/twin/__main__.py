"""`python -m tests.twin [WORDS]`: tell the stories whose names contain one of the words, and print every difference with the row that allows it."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.twin.comparing import Difference
from tests.twin.performing import perform, row_for, rows_without_use
from tests.twin.telling import all_stories


def main(words: list[str]) -> int:
    chosen = [story for story in all_stories().values() if not words or any(word in story.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="hotlog-twin-") as folder:
        performance = perform(chosen, Path(folder))
    strange = 0
    for name, outcome in performance.items():
        print(f"== {name}: {len(outcome.asked)} APIs and versions")
        for seen, versions in merged(outcome.differences):
            row = row_for(name, seen)
            strange += row is None
            shown = str(seen).replace(f"version {seen.version}", f"versions {versions}", 1)
            print(f"{'  ' if row else '* '}{shown}" + (f"\n    allowed: {row.why}" if row else ""))
        for trouble in outcome.troubles:
            strange += 1
            print(f"* {trouble}")
    if not words:
        for row in rows_without_use(performance):
            strange += 1
            print(f"* nothing needs the row {row.api.word} {row.field}: {row.why}")
    print(f"{strange} to look at")
    return bool(strange)


def merged(differences: list[Difference]) -> list[tuple[Difference, list[int]]]:
    """Each difference once, with its versions; names of rounds are alike in all of them."""
    found: dict[Difference, tuple[Difference, list[int]]] = {}
    for seen in differences:
        alike = seen._replace(version=0, path=re.sub(r"-\d+-", "-#-", seen.path))
        found.setdefault(alike, (seen, []))[1].append(seen.version)
    return [(seen, sorted(versions)) for seen, versions in found.values()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
