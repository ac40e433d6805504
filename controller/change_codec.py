"""The bytes of a change that goes to the active controller, and of its answer.  In the envelope of controller.codec.

Invariants: pure; `decode_change(encode_change(x)) == x`, and so for answers; a change names its cluster, so that none is ever applied to another;
a type or version that the receiver does not know is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from controller.changes import CHANGES, Accepted, Change, IdsAllocated, Refusal, Result
from controller.codec import ANSWER, CHANGE, seal, unseal
from controller.forms import Family, Json, Malformed, form, parser
from hotlog.kernel.errors import Corrupt
from hotlog.kernel.versions import Upgrade

UPGRADES: dict[str, dict[int, Upgrade[Json]]] = {}
_CHANGES = Family("change", CHANGES, UPGRADES)
_RESULTS = Family("result of a change", {kind.TYPE: kind for kind in (Accepted, IdsAllocated, Refusal)}, {})


class Sent(NamedTuple):
    """A change on its way."""

    cluster_id: str
    change: Change


@dataclass(frozen=True)
class Answer:
    """What became of a change.  `offset`: an image from there on has it."""

    offset: int
    results: tuple[Result, ...]


class Reason(Enum):
    """Why there is no Answer: what the sender does next."""

    NOT_CONTROLLER = "not-controller"  # nothing happened: look in the image who is
    RETRY = "retry"  # nothing happened
    UNKNOWN = "unknown"  # it may have happened
    INVALID = "invalid"  # nothing happened, nor will it


@dataclass(frozen=True)
class NotDone:
    """Why there is no answer."""

    reason: Reason
    message: str


def encode_change(sent: Sent) -> bytes:
    return seal(CHANGE, {"cluster_id": sent.cluster_id, "change": _CHANGES.form(sent.change)})


def decode_change(raw: bytes) -> Sent:
    """
    Raises:
        Corrupt.  UnknownVersion: a newer program sent it.
    """
    body = unseal(CHANGE, raw)
    return Sent(str(body.get("cluster_id")), _CHANGES.parse(body.get("change")))


def encode_answer(answer: Answer | NotDone) -> bytes:
    if isinstance(answer, NotDone):
        return seal(ANSWER, {"not_done": form(answer)})
    return seal(ANSWER, {"offset": answer.offset, "results": [_RESULTS.form(result) for result in answer.results]})


def decode_answer(raw: bytes) -> Answer | NotDone:
    """
    Raises:
        Corrupt.  UnknownVersion: a newer program sent it.
    """
    body = unseal(ANSWER, raw)
    try:
        if "not_done" in body:
            failed: NotDone = parser(NotDone)(body["not_done"])
            return failed
        return Answer(parser(int)(body["offset"]), tuple(_RESULTS.parse(result) for result in body["results"]))
    except (Malformed, KeyError, TypeError) as problem:
        raise Corrupt(f"answer to a change cannot be read: {problem!r}") from None
