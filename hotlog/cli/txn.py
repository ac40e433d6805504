"""hotlog txn: list, describe and abort transactions, by KIP-664's requests.

Invariants: nothing is ended that was not named; who is fenced is told by its transactional id.
"""

from __future__ import annotations

import struct
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

import typer
from kio.schema.describe_producers.v0.request import DescribeProducersRequest, TopicRequest
from kio.schema.describe_producers.v0.response import DescribeProducersResponse
from kio.schema.describe_transactions.v0.request import DescribeTransactionsRequest
from kio.schema.errors import ErrorCode
from kio.schema.init_producer_id.v4.request import InitProducerIdRequest
from kio.schema.init_producer_id.v4.response import InitProducerIdResponse
from kio.schema.list_transactions.v1.request import ListTransactionsRequest
from kio.schema.list_transactions.v1.response import ListTransactionsResponse
from kio.schema.types import ProducerId, TopicName, TransactionalId
from kio.schema.write_txn_markers.v1.request import WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest
from kio.schema.write_txn_markers.v1.response import WriteTxnMarkersResponse
from kio.static.primitive import i16, i32, i32Timedelta, i64

from hotlog.cli.client import ClientError
from hotlog.cli.complete import BOOTSTRAP_DEFAULT
from hotlog.cli.options import Bootstrap, Json
from hotlog.cli.output import say, show_json, show_rows
from hotlog.cli.raw import ask, ask_bytes
from hotlog.cli.times import parse_span_ms, time_text
from hotlog.kernel.errors import Invalid, NotFound, Retry
from hotlog.wire.fields import Reader

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, describe and abort transactions.")
LIST, DESCRIBE, PRODUCERS, MARKERS, INIT = (66, 1), (65, 0), (61, 0), (27, 1), (22, 4)  # key and version
_NUMBERS = struct.Struct(">iqqh")  # timeout, start, producer id, epoch
FENCE_TIMEOUT = timedelta(minutes=1)  # of the transaction that nobody will begin

TxnId = Annotated[str, typer.Argument(metavar="TRANSACTIONAL-ID")]


@app.command("list")
def list_transactions(
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Only these, such as Ongoing; may be repeated.")
    ] = None,
    older: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Only transactions that began so long ago, such as 10m.")
    ] = None,
    json: Json = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """Transactional ids, with the state of their last transaction.  Example: hotlog txn list --state Ongoing --older-than 10m"""
    body = ListTransactionsRequest(
        state_filters=tuple(state or ()),
        producer_id_filters=(),
        duration_filter=i64(-1 if older is None else parse_span_ms(older)),
    )
    answer = ask(bootstrap, LIST, ListTransactionsRequest, body, ListTransactionsResponse)
    _check(answer.error_code, "the list of transactions")
    if answer.unknown_state_filters:
        raise Invalid(f"no transaction has the state {', '.join(answer.unknown_state_filters)}")
    found = sorted(answer.transaction_states, key=lambda each: each.transactional_id)
    rows = [(each.transactional_id, each.transaction_state, each.producer_id) for each in found]
    columns = ["transactional id", "state", "producer id"]
    if json:
        show_json([dict(zip(("transactional_id", "state", "producer_id"), row, strict=True)) for row in rows])
    else:
        show_rows(columns, rows, numeric=["producer id"])


@app.command()
def describe(transactional_id: TxnId, json: Json = False, bootstrap: Bootstrap = BOOTSTRAP_DEFAULT) -> None:
    """State, producer, time and partitions of one transactional id."""
    found = _described(bootstrap, transactional_id)
    if json:
        partitions = [{"topic": topic, "partition": index} for topic, index in found.partitions]
        started = None if found.start_ms < 0 else time_text(found.start_ms)
        show_json(found._asdict() | {"partitions": partitions} | {"started": started})
        return
    columns = ["transactional id", "state", "producer id", "epoch", "timeout ms", "started"]
    row = [
        found.transactional_id,
        found.state,
        found.producer_id,
        found.producer_epoch,
        found.timeout_ms,
        time_text(found.start_ms),
    ]
    show_rows(columns, [row], numeric=["producer id", "epoch", "timeout ms"])
    show_rows(["topic", "partition"], found.partitions, numeric=["partition"])


class Described(NamedTuple):
    """A transactional id and its last transaction; times in ms, -1 for none."""

    transactional_id: str
    state: str
    timeout_ms: int
    start_ms: int
    producer_id: int
    producer_epoch: int
    partitions: tuple[tuple[str, int], ...]


def _described(bootstrap: str, transactional_id: str) -> Described:
    """By hand: kio refuses the time of a transaction that never began, -1.

    Raises:
        NotFound: the id is not known.
    """
    body = DescribeTransactionsRequest(transactional_ids=(TransactionalId(transactional_id),))
    read = Reader(
        memoryview(ask_bytes(bootstrap, DESCRIBE, DescribeTransactionsRequest, body)), 5 + 4, True
    )  # header, throttle time
    read.count(1)
    (code,) = struct.unpack(">h", read.take_bytes(2))
    if code == ErrorCode.transactional_id_not_found:
        raise NotFound(f"transactional id {transactional_id!r} is not known")
    _check(ErrorCode(code), f"transactional id {transactional_id!r}")
    name, state = read.string() or "", read.string() or ""
    timeout_ms, start_ms, producer_id, epoch = _NUMBERS.unpack(read.take_bytes(_NUMBERS.size))
    partitions: list[tuple[str, int]] = []
    for _ in range(read.count(2)):
        topic = read.string() or ""
        indexes = read.take_bytes(4 * read.count(4))
        partitions += [(topic, index) for (index,) in struct.iter_unpack(">i", indexes)]
        read.skip_tags()
    return Described(name, state, timeout_ms, start_ms, producer_id, epoch, tuple(partitions))


@app.command()
def abort(
    transactional_id: Annotated[str | None, typer.Argument(metavar="[TRANSACTIONAL-ID]")] = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="A partition in which one hangs.")] = None,
    partition: Annotated[int, typer.Option("--partition", "-p", min=0, max=2**31 - 1, help="Its number.")] = 0,
    start: Annotated[
        int | None, typer.Option("--start-offset", "-o", min=0, max=2**63 - 1, help="Where the hanging one begins.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """Abort the transaction of a transactional id, which fences its producer; or, in one partition, a hanging one that its coordinator knows nothing
    of.  Example: hotlog txn abort payments, hotlog txn abort -t clicks -p 3 -o 81745"""
    if (transactional_id is None) == (topic is None):
        raise Invalid("give a transactional id, or --topic, --partition and --start-offset of a transaction that hangs")
    if transactional_id is not None:
        if not yes:
            typer.confirm(f"Abort the transaction of {transactional_id} and fence its producer?", abort=True)
        _fence(bootstrap, transactional_id)
        say(f"aborted the transaction of {transactional_id}; its producer is fenced")
        return
    if start is None:
        raise Invalid("--start-offset says which transaction of the partition is meant; `last stable offset` of a fetch shows it")
    assert topic is not None
    state = _hanging(bootstrap, topic, partition, start)
    if not yes:
        typer.confirm(f"Abort the transaction of producer {state.producer_id} in {topic}-{partition}?", abort=True)
    _end(bootstrap, topic, partition, state)
    say(f"aborted the transaction of producer {state.producer_id} in {topic}-{partition}")


def _fence(bootstrap: str, transactional_id: str) -> None:
    """As a new producer that begins: once for the abort, and again until that is through."""
    _described(bootstrap, transactional_id)  # it is known
    begin = InitProducerIdRequest(
        transactional_id=TransactionalId(transactional_id),
        transaction_timeout=i32Timedelta.parse(FENCE_TIMEOUT),
        producer_id=ProducerId(-1),
        producer_epoch=i16(-1),
    )
    answer = ask(bootstrap, INIT, InitProducerIdRequest, begin, InitProducerIdResponse)
    if answer.error_code is not ErrorCode.concurrent_transactions:  # the abort has been decided then
        _check(answer.error_code, f"transactional id {transactional_id!r}")


def _hanging(bootstrap: str, topic: str, partition: int, start: int) -> Any:
    """The producer whose transaction begins there."""
    body = DescribeProducersRequest(topics=(TopicRequest(name=TopicName(topic), partition_indexes=(i32(partition),)),))
    (found,) = ask(bootstrap, PRODUCERS, DescribeProducersRequest, body, DescribeProducersResponse).topics[0].partitions
    if found.error_code is ErrorCode.unknown_topic_or_partition:
        raise NotFound(f"partition {topic}-{partition} does not exist")
    _check(found.error_code, f"partition {topic}-{partition}")
    begun = [state for state in found.active_producers if state.current_txn_start_offset >= 0]
    for state in begun:
        if state.current_txn_start_offset == start:
            return state
    offsets = sorted(state.current_txn_start_offset for state in begun)
    raise NotFound(
        f"no open transaction begins at offset {start} of {topic}-{partition}; those that are open begin at {offsets[:5]}"
    )


def _end(bootstrap: str, topic: str, partition: int, state: Any) -> None:
    marker = WritableTxnMarker(
        producer_id=ProducerId(state.producer_id),
        producer_epoch=i16(state.producer_epoch),
        transaction_result=False,
        topics=(WritableTxnMarkerTopic(name=TopicName(topic), partition_indexes=(i32(partition),)),),
        coordinator_epoch=i32(max(state.coordinator_epoch, 0)),
    )
    body = WriteTxnMarkersRequest(markers=(marker,))
    answer = ask(bootstrap, MARKERS, WriteTxnMarkersRequest, body, WriteTxnMarkersResponse)
    _check(answer.markers[0].topics[0].partitions[0].error_code, f"partition {topic}-{partition}")


def _check(code: ErrorCode, what: str) -> None:
    if code is ErrorCode.none:
        return
    name = code.name.upper()
    if code.retriable:
        raise Retry(f"{what}: {name}")
    raise ClientError(f"{what}: {name}")
