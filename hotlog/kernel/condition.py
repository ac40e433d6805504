"""Something that can go wrong and come right again: told once when it begins, once when it ends, and looked at in between.

Invariants: a condition that goes on is not told again, whatever its reason becomes; `reason` is the newest one, "" while all is well.
"""

from __future__ import annotations

import logging


class Condition:
    """One thing that is watched.  `level` is of the line that tells the beginning; the end is INFO."""

    def __init__(self, logger: logging.Logger, level: int = logging.WARNING) -> None:
        self._logger = logger
        self._level = level
        self.reason = ""

    def __bool__(self) -> bool:
        """Whether it is wrong now."""
        return bool(self.reason)

    def begins(self, reason: str) -> None:
        """It is wrong, for `reason` (not empty)."""
        if not self.reason:
            self._logger.log(self._level, "%s", reason)
        self.reason = reason

    def ends(self, told: str) -> None:
        """It is right; `told` says so if it was wrong."""
        if self.reason:
            self._logger.info("%s", told)
        self.reason = ""
