"""Two answers side by side: every field, by its path.

A path is `topics[t].partitions[0].leader_epoch`: elements of a list find each other by what names them (`NAMES`), so order does not matter,
except in the lists of ORDERED.

Invariants: whatever one side has and the other has not is a difference; nothing is left out because it is at its default.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from tests.twin.telling import Told
from tests.twin.translation import FIELDS, Kind, Twins, plain, records, same

NAMES = (
    "partition_index", "index", "partition", "partition_id", "replica_id", "api_key", "node_id", "broker_id", "batch_index", "name", "topic", "user", "feature", "topic_name", "key", "group_id",
    "resource_name", "group_instance_id", "member_id", "topic_id", "transactional_id", "base_offset", "producer_id", "log_dir",
)  # fmt: skip
ORDERED = {(75, "topics"), (75, "partitions"), (32, "synonyms"), (1, "batches")}


class Missing(Enum):
    """Instead of a value."""

    MISSING = "not there"


MISSING = Missing.MISSING


class Difference(NamedTuple):
    """What differs: in the answer to which question, where in it."""

    what: str
    key: int
    version: int
    path: str
    hotlog: Any
    kafka: Any

    def __str__(self) -> str:
        hotlog, kafka = (getattr(value, "value", repr(value)) for value in (self.hotlog, self.kafka))
        return f"{self.what}: API {self.key} version {self.version}, {self.path or 'the answer'}\n    hotlog {hotlog}\n    kafka  {kafka}"


def compare(
    hotlog: Sequence[Told], kafka: Sequence[Told], ids: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
) -> list[Difference]:
    """Everything that differs between the two sides of a story; `ids` are those of topics with the same names."""
    ours, theirs = ({(told.key, told.what): told for told in side} for side in (hotlog, kafka))
    twins = Twins()
    for word in ids[0].keys() & ids[1].keys():
        twins.are_one(Kind.ID, ids[0][word], ids[1][word])
    pairs = [(ours[name], told) for name, told in theirs.items() if name in ours]
    for our, their in pairs:  # ids that an answer is about, before lists in which they stand in any order
        _bind(our.answer, their.answer, twins)
    found = [
        Difference(told.what, told.key, told.version, "", *answers)
        for side, other, is_ours in ((ours, theirs, True), (theirs, ours, False))
        for name, told in side.items()
        if name not in other
        for answers in [("asked", MISSING) if is_ours else (MISSING, "asked")]
    ]
    for our, their in pairs:
        for path, *values in _walk(our.key, "", "", our.answer, their.answer, twins):
            found.append(Difference(our.what, our.key, our.version, path, *values))
    return found


def _bind(ours: Any, theirs: Any, twins: Twins) -> None:
    if type(ours) is type(theirs) and dataclasses.is_dataclass(ours):
        for field in dataclasses.fields(ours):
            if field.name in FIELDS:
                same(field.name, plain(getattr(ours, field.name)), plain(getattr(theirs, field.name)), twins)


Found = Iterator[tuple[str, Any, Any]]


def _walk(key: int, path: str, name: str, ours: Any, theirs: Any, twins: Twins) -> Found:
    if name == "records" and key == 1:
        ours, theirs = (records(value) if isinstance(value, bytes) else value for value in (ours, theirs))
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and any(dataclasses.is_dataclass(each) for each in (*ours, *theirs)):
        yield from _lists(key, path, name, ours, theirs, twins)
    elif type(ours) is type(theirs) and dataclasses.is_dataclass(ours):
        for field in dataclasses.fields(ours):
            at = f"{path}.{field.name}" if path else field.name
            yield from _walk(key, at, field.name, getattr(ours, field.name), getattr(theirs, field.name), twins)
    elif not same(name, plain(ours), plain(theirs), twins):
        yield path, _shown(ours), _shown(theirs)


def _lists(key: int, path: str, name: str, ours: Sequence[Any], theirs: Sequence[Any], twins: Twins) -> Found:
    by_name = dict(_named(ours))
    matched: list[tuple[str, Any, Any]] = []
    left: list[tuple[str, Any]] = []
    for identity, element in _named(theirs):
        other = by_name.pop(_translated(identity, twins), None)
        if other is None:
            left.append((str(identity[1]), element))
        else:
            matched.append((str(identity[1]), other, element))
    strangers = [(identity, element) for identity, element in by_name.items() if identity[0] in FIELDS]
    for (shown, element), (identity, other) in zip(list(left), strangers, strict=False):  # ids of which nothing is known yet
        matched.append((shown, other, element))
        left.remove((shown, element))
        del by_name[identity]
    for shown, other, element in matched:
        yield from _walk(key, f"{path}[{shown}]", name, other, element, twins)
    for shown, element in left:
        yield f"{path}[{shown}]", MISSING, _shown(element)
    for identity, element in by_name.items():
        yield f"{path}[{identity[1]}]", _shown(element), MISSING
    if (key, name) in ORDERED:
        order = [id(each) for each in ours if any(each is other for _, other, _ in matched)]
        if order != [id(other) for _, other, _ in matched]:
            yield f"{path}.order", _order(ours), _order(theirs)


Identity = tuple[str, Any, int]  # the field that names it, its value, and which one of this name it is


def _named(elements: Sequence[Any]) -> list[tuple[Identity, Any]]:
    counts: Counter[tuple[str, Any]] = Counter()
    found = []
    for element in elements:
        name = next((name for name in NAMES if getattr(element, name, None) is not None), "")
        value = plain(getattr(element, name)) if name else ""
        found.append(((name, value, counts[name, value]), element))
        counts[name, value] += 1
    return found


def _translated(identity: Identity, twins: Twins) -> Identity:
    name, value, number = identity
    known = twins.ours(FIELDS[name], value) if name in FIELDS else None
    return name, value if known is None else known, number


def _order(elements: Sequence[Any]) -> list[Any]:
    return [identity[1] for identity, _ in _named(elements)]


def _shown(value: Any) -> Any:
    """As a row of the table can name it, and as it can be kept: structures in words."""
    if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and value and not isinstance(value[0], (int, str))):
        return repr(value)
    return plain(value)
