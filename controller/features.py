"""Features whose level the cluster has finalized, and how that is changed (KIP-584, KIP-778, KIP-1022).

Rules: org.apache.kafka.controller.FeatureControlManager (behaviour, not code).

Invariants: pure; a change of several features is made as a whole or not at all; until a feature is changed it has the level of a new cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from controller.image import ClusterImage
from controller.records import FeaturesFinalized
from hotlog.wire.error_codes import Refused

GROUP_VERSION, TRANSACTION_VERSION = "group.version", "transaction.version"
UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3  # FeatureUpdate.UpgradeType


class Feature(NamedTuple):
    """Levels 0 (it is not used) to `last` are supported; a new cluster has `initial`."""

    name: str
    last: int
    initial: int


FEATURES = (Feature(GROUP_VERSION, 1, 1), Feature(TRANSACTION_VERSION, 2, 2))
_BY_NAME = {feature.name: feature for feature in FEATURES}


class FeatureUpdate(NamedTuple):
    """A level that a feature is to have; `kind` is one of UPGRADE, SAFE_DOWNGRADE and UNSAFE_DOWNGRADE."""

    name: str
    level: int
    kind: int


def level_of(image: ClusterImage, name: str) -> int:
    """The finalized level of one of FEATURES; 0: it is not used."""
    return image.features.get(name, _BY_NAME[name].initial)


def levels(image: ClusterImage) -> tuple[tuple[Feature, int], ...]:
    """Every feature and its finalized level."""
    return tuple((feature, level_of(image, feature.name)) for feature in FEATURES)


def plan_features(image: ClusterImage, updates: Sequence[FeatureUpdate]) -> FeaturesFinalized | None:
    """The record that finalizes `updates`, or None if that changes nothing; of several for one feature the last counts.

    Raises:
        Refused: INVALID_UPDATE_VERSION
    """
    wanted = {update.name: update for update in updates}
    for update in wanted.values():
        _check(image, update)
    changed = {name: update.level for name, update in wanted.items() if update.level != level_of(image, name)}
    return FeaturesFinalized(levels=dict(sorted(changed.items()))) if changed else None


def _check(image: ClusterImage, update: FeatureUpdate) -> None:
    name, level, kind = update
    feature = _BY_NAME.get(name)
    if kind not in (UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
        raise _refused(update, f"kind {kind} of change is unknown; 1, 2 and 3 are known")
    if feature is None:
        raise _refused(update, f"there is no such feature; there are {', '.join(_BY_NAME)}")
    if not 0 <= level <= feature.last:
        raise _refused(update, f"levels 0 to {feature.last} are supported")
    now = level_of(image, name)
    if level < now and kind == UPGRADE:
        raise _refused(update, f"it is at level {now}: only a downgrade, safe or not, goes below")
    if level > now and kind != UPGRADE:
        raise _refused(update, f"it is at level {now}: only an upgrade goes above")


def _refused(update: FeatureUpdate, why: str) -> Refused:
    return Refused(ErrorCode.invalid_update_version, f"feature {update.name[:100]!r} cannot have level {update.level}: {why}")
