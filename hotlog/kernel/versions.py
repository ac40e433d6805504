"""Versions of stored structures: a release writes one version of each, and reads it and the one before.

A format has one table of upgrades.  An entry says how a value of that version becomes one of the next; what is read goes up the table step
by step, so that all other code knows the newest version only.  To change a format: raise its version, add the upgrade from the version
before, drop the one from before that, and keep a golden file of what the release before wrote.

Invariants: a value is used only as the newest version has it; bytes of a newer version are UnknownVersion, which is no damage: whoever finds
them leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from hotlog.kernel.errors import Corrupt, UnknownVersion

T = TypeVar("T")
Upgrade = Callable[[T], T]


class StoredFormat(Generic[T]):
    """One stored structure.

    Args:
        name: as messages have it ("manifest").
        version: what this release writes.
        upgrades: version -> what makes a value of the next version of one of it.
    """

    def __init__(self, name: str, version: int, upgrades: Mapping[int, Upgrade[T]] | None = None) -> None:
        self.name = name
        self.version = version
        self._upgrades = dict(upgrades or {})
        self.oldest = min(self._upgrades, default=version)
        assert sorted(self._upgrades) == list(range(self.oldest, version)), (
            f"{name}: a step of the way to version {version} is missing"
        )

    def require(self, version: int, where: str = "") -> None:
        """Refuse a version that this release does not read; `where` names the bytes.

        Raises:
            UnknownVersion: a newer release wrote it.  Corrupt: older than what is read, or no version at all.
        """
        what = f"{where}: {self.name}" if where else self.name
        if version > self.version:
            raise UnknownVersion(
                f"{what} has format version {version}; this release reads up to version {self.version}: a newer one wrote it"
            )
        if version < self.oldest:
            raise Corrupt(f"{what} has format version {version}; this release reads versions {self.oldest} to {self.version}")

    def upgraded(self, version: int, value: T, where: str = "") -> T:
        """`value`, which was read in `version`, as this release has it.

        Raises:
            as `require`.
        """
        self.require(version, where)
        for older in range(version, self.version):
            value = self._upgrades[older](value)
        return value
