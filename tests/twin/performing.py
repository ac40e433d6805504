"""All stories told to both brokers, and what came of it.

Stories are told several at a time, since most of a story is waiting; those that change what others see (`is_alone`) are told afterwards, one
by one.

Invariants: one pair of brokers for all of it; one performance for all workers of a test run, whoever comes first; a story that ends early on
one side is compared up to there.
"""

from __future__ import annotations

import asyncio
import pickle
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from tests.tools.cache import ToolMissing
from tests.twin.brokers import Addresses, running
from tests.twin.comparing import Difference, compare
from tests.twin.differences import TABLE, Row
from tests.twin.keys import Key
from tests.twin.telling import Side, Story

TOGETHER = 6  # stories at a time
ROUND_S_MAX = 300.0


class Outcome(NamedTuple):
    """Of one story.  `asked`: API and version of each question that was compared; `troubles`: what ended a side early."""

    differences: list[Difference]
    asked: set[tuple[int, int]]
    troubles: list[str]


Performance = dict[str, Outcome]


def perform(stories: Collection[Story], folder: Path) -> Performance:
    """Start both brokers, tell the stories, stop them.  Raises ToolMissing."""
    with running(folder) as addresses:
        return asyncio.run(_told(stories, addresses))


async def _told(stories: Collection[Story], addresses: Addresses) -> Performance:
    found: Performance = {each.name: Outcome([], set(), []) for each in stories}
    few = asyncio.Semaphore(TOGETHER)

    async def tell(each: Story, number: int, versions: dict[Key, int]) -> None:
        async with few:
            outcome = await _round(each, number, versions, addresses)
        found[each.name].differences.extend(outcome.differences)
        found[each.name].asked.update(outcome.asked)
        found[each.name].troubles.extend(outcome.troubles)

    rounds = [(each, number, versions) for each in stories for number, versions in enumerate(each.rounds)]
    await asyncio.gather(*(tell(*each) for each in rounds if not each[0].is_alone))
    for each in rounds:
        if each[0].is_alone:
            await tell(*each)
    return found


async def _round(story: Story, number: int, versions: dict[Key, int], addresses: Addresses) -> Outcome:
    sides = [Side(name, address, story, versions, number) for name, address in addresses._asdict().items()]
    troubles = [trouble for trouble in await asyncio.gather(*(_tell(story, side) for side in sides)) if trouble]
    hotlog, kafka = sides
    asked = {(told.key, told.version) for told in kafka.told}
    return Outcome(compare(hotlog.told, kafka.told, (hotlog.ids, kafka.ids)), asked, troubles)


async def _tell(story: Story, side: Side) -> str:
    """One side of a story; what ended it early."""
    try:
        async with asyncio.timeout(ROUND_S_MAX):
            await story.tell(side)
    except Exception as trouble:
        lines = "".join(traceback.format_exception(trouble)[-4:])
        return f"{side.broker}, versions {_words(side)}: {lines}"
    finally:
        await side.close()
    return ""


def _words(side: Side) -> str:
    return ", ".join(f"{key.word} {version}" for key, version in side.versions.items())


def perform_once(stories: Collection[Story], folder: Path) -> Performance:
    """The performance of this test run, in a folder that all of its workers share: the first tells the stories, the others read it."""
    kept = folder / "performance"
    with FileLock(folder / "performance.lock"):
        if kept.exists():
            found = pickle.loads(kept.read_bytes())
        else:
            try:
                found = perform(stories, folder)
            except ToolMissing as why:
                found = why
            kept.write_bytes(pickle.dumps(found))
    if isinstance(found, ToolMissing):
        raise found
    assert isinstance(found, dict)
    return found


def row_for(story: str, seen: Difference, table: Iterable[Row] = TABLE) -> Row | None:
    """The row that allows a difference."""
    return next((row for row in table if row.allows(story, seen)), None)


def not_allowed(performance: Performance, story: str) -> list[Difference]:
    """What differs in a story without a reason."""
    return [seen for seen in performance[story].differences if row_for(story, seen) is None]


def rows_without_use(performance: Performance) -> list[Row]:
    """Rows that allow nothing that was seen (of several that allow the same, the first is of use)."""
    used = {id(row_for(story, seen)) for story, outcome in performance.items() for seen in outcome.differences}
    return [row for row in TABLE if id(row) not in used and not row.may_rest]
