"""What regular expressions of members match: RE2, as KIP-848 asks for, so that no expression takes long.

Topics are looked at a slice at a time, and again only those that came, changed or went.

Invariants: an expression matches a whole name; what was found holds for the image that it was found in.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

from controller.image import ClusterImage
from hotlog.coordinators.consumer.values import Resolved
from hotlog.kernel.errors import Invalid
from hotlog.kernel.expressions import Expression, compiled

NAMES_AT_ONCE = 512  # in one turn of the loop
KNOWN_MAX = 1024  # expressions that are kept


class _Known:
    """An expression and what it matched."""

    __slots__ = ("compiled", "found", "offset")

    def __init__(self, compiled: Expression) -> None:
        self.compiled = compiled
        self.found: set[str] = set()
        self.offset = -1  # of the image


class Regexes:
    """All expressions of this node."""

    def __init__(self, image: Callable[[], ClusterImage], now_ms: Callable[[], int]) -> None:
        self._image = image
        self._now_ms = now_ms
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self.resolved: dict[str, Resolved] = {}

    def check(self, regex: str) -> None:
        """Raises Invalid: it is no expression."""
        if regex not in self._known:
            self._known[regex] = _Known(_compiled(regex))
            while len(self._known) > KNOWN_MAX:
                forgotten, _ = self._known.popitem(last=False)
                self.resolved.pop(forgotten, None)
        self._known.move_to_end(regex)

    async def resolve(self, regexes: Iterable[str]) -> None:
        """Have in `resolved` what these match now; those that are no expressions match nothing."""
        for regex in regexes:
            try:
                self.check(regex)
            except Invalid:  # another RE2 took it
                self.resolved[regex] = Resolved((), self._image().offset, self._now_ms())
                continue
            known, image = self._known[regex], self._image()
            if known.offset != image.offset:
                await self._look(regex, known, image)

    async def _look(self, regex: str, known: _Known, image: ClusterImage) -> None:
        touched = image.touched_since(known.offset) if known.offset >= 0 else None
        found = set(known.found) if touched is not None else set()
        names = list(image.topics) if touched is None else sorted(touched)
        for at in range(0, len(names), NAMES_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            for name in names[at : at + NAMES_AT_ONCE]:
                if name in image.topics and known.compiled.fullmatch(name):
                    found.add(name)
                else:
                    found.discard(name)
        if found != known.found or regex not in self.resolved:
            self.resolved[regex] = Resolved(tuple(sorted(found)), image.offset, self._now_ms())
        known.found, known.offset = found, image.offset


def _compiled(regex: str) -> Expression:
    try:
        return compiled(regex)
    except Invalid as why:
        raise Invalid(f"SubscribedTopicRegex `{regex}` is not a valid regular expression: {why}.") from None
