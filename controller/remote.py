"""A change that goes to another node, and one that came from there.

Invariants: a change is sent again only if it certainly had no effect; when it was answered, the sender's image has it; one for another cluster is
never applied.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from controller.change_codec import Answer, NotDone, Reason, Sent, decode_answer, decode_change, encode_answer, encode_change
from controller.changes import Change
from controller.journal import Journal
from controller.peers import Peers
from hotlog.kernel.errors import Fenced, HotlogError, Invalid, NotReady, OutcomeUnknown, Retry

SENDINGS_MAX = 3  # of one change, to whoever is the controller by then
_FAILURES: dict[Reason, type[HotlogError]] = {Reason.RETRY: Retry, Reason.UNKNOWN: OutcomeUnknown, Reason.INVALID: Invalid}


async def send(change: Change, journal: Journal, peers: Peers, node_id: int) -> Answer:
    """Have the active controller commit `change`, and read on until it is in the journal's image.  `node_id` is the sender.

    Raises:
        NotReady: nobody is the controller, as far as can be told.  Retry: nothing happened.  OutcomeUnknown: it may have.  Invalid.
    """
    raw = encode_change(Sent(journal.cluster_id, change))
    for sending in range(SENDINGS_MAX):
        if sending or journal.image.controller_id == node_id:  # the sender was, until now
            await journal.catch_up()
        if journal.image.controller_id == node_id:
            break
        answer = decode_answer(await peers.submit(journal.image.controller_id, raw))
        if isinstance(answer, Answer):
            await _see(answer.offset, journal)
            return answer
        if answer.reason is not Reason.NOT_CONTROLLER:
            raise _FAILURES[answer.reason](answer.message)
    raise NotReady(f"node {journal.image.controller_id} was the controller and is not any more; who is next is not known yet")


async def _see(offset: int, journal: Journal) -> None:
    """Read the log until the image is at `offset` or further; that offset is committed."""
    if journal.image.offset < offset:
        try:
            await journal.catch_up()
        except Retry as weather:
            raise OutcomeUnknown(f"the change was committed and cannot be read yet: {weather}") from weather


async def serve(raw: bytes, cluster_id: str, commit: Callable[[Change], Awaitable[Answer]]) -> bytes:
    """The answer to a change that another node sent; `commit` raises Fenced where this node is not the controller."""
    answer: Answer | NotDone
    try:
        sent = decode_change(raw)
        if sent.cluster_id != cluster_id:
            raise Invalid(f"the change is for cluster {sent.cluster_id}; this is cluster {cluster_id}")
        answer = await commit(sent.change)
    except HotlogError as problem:
        answer = NotDone(_reason(problem), str(problem))
    return encode_answer(answer)


def _reason(problem: HotlogError) -> Reason:
    match problem:
        case Fenced():
            return Reason.NOT_CONTROLLER
        case Retry():
            return Reason.RETRY
        case OutcomeUnknown():
            return Reason.UNKNOWN
        case _:
            return Reason.INVALID
