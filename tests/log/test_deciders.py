"""The pure parts: names, checkpoints, index search, epochs, producers, roll, tail verdicts."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from crc32c import crc32c
from hypothesis import example, given
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, InvalidProducerEpoch, OutOfOrderSequence
from hotlog.kernel.ids import TopicPartition
from hotlog.log import checkpoints, files, index
from hotlog.log.epochs import LeaderEpochs
from hotlog.log.producer_snapshot import parse_snapshot
from hotlog.log.producers import SEQUENCE_MAX, Producer, Producers
from hotlog.log.recovery import Verdict, is_one_bit_off, looks_unwritten, plan_tail
from hotlog.log.roll import Bounds, Roll, Tail, plan_idle_roll, plan_roll
from hotlog.wire.batch import BatchHeader, header_at
from tests.log.support import T0, batch

DAY = 86_400_000

# -- names


def test_names_are_kafkas() -> None:
    assert files.segment_path("d", 368769, ".log") == "d/00000000000000368769.log"
    assert files.parse_segment_name("00000000000000368769.timeindex") == (368769, ".timeindex")
    assert files.parse_segment_name("00000000000000368769.log.deleted") is None
    assert files.parse_segment_name("368769.log") is None
    assert files.parse_partition_directory("my-topic.x_1-17") == TopicPartition("my-topic.x_1", 17)
    assert files.parse_partition_directory("lost+found") is None
    nonce = UUID("0123456789abcdef0123456789abcdef")
    name = files.condemned_directory(TopicPartition("t" * 249, 3), nonce)
    assert len(name) == 255 and name.endswith("-3.0123456789abcdef0123456789abcdef-delete")
    assert files.is_condemned_directory(name) and files.parse_partition_directory(name) is None


# -- checkpoints


def test_checkpoint_bytes_are_kafkas() -> None:
    assert checkpoints.print_epochs([(0, 0), (3, 17)]) == b"0\n2\n0 0\n3 17\n"
    assert checkpoints.print_offsets({TopicPartition("b", 1): 5, TopicPartition("a", 0): 7}) == b"0\n2\na 0 7\nb 1 5\n"
    topic_id = UUID(bytes=bytes(range(16)))
    assert checkpoints.print_metadata(topic_id) == b"version: 0\ntopic_id: AAECAwQFBgcICQoLDA0ODw\n"
    assert checkpoints.parse_metadata(checkpoints.print_metadata(topic_id)) == topic_id
    assert checkpoints.print_clean_shutdown() == b'{"version":0,"brokerEpoch":-1}'


@given(
    st.dictionaries(
        st.tuples(st.from_regex(r"[a-zA-Z0-9._-]{1,20}", fullmatch=True), st.integers(0, 9999)), st.integers(0, 2**63 - 1)
    )
)
def test_offsets_round_trip(offsets: dict[tuple[str, int], int]) -> None:
    given_offsets = {TopicPartition(*key): value for key, value in offsets.items()}
    assert checkpoints.parse_offsets(checkpoints.print_offsets(given_offsets)) == given_offsets


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"0\n",
        b"1\n0\n",
        b"0\n2\n0 0\n",
        b"0\n1\n0 0 0\n",
        b"0\n1\n0 x\n",
        b"0\n2\n1 5\n1 6\n",
        b"0\n2\n1 5\n2 4\n",
        b"\xff\n0\n",
        b"0\n1\n-1 0\n",
    ],
)
def test_epochs_that_cannot_be_are_refused(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        checkpoints.parse_epochs(raw)


@given(st.binary(max_size=60))
def test_junk_never_crashes_a_parser(raw: bytes) -> None:
    for parse in (
        checkpoints.parse_epochs,
        checkpoints.parse_offsets,
        checkpoints.parse_metadata,
        checkpoints.parse_properties,
        parse_snapshot,
    ):
        with contextlib.suppress(Corrupt):
            parse(raw)


# -- index


@given(st.lists(st.integers(0, 2**31 - 1), unique=True, max_size=200).map(sorted), st.integers(-1, 2**31))
def test_floor_finds_the_last_entry_at_or_below(offsets: list[int], wanted: int) -> None:
    entries = b"".join(index.OFFSET_ENTRY.pack(offset, number) for number, offset in enumerate(offsets))
    below = [(offset, number) for number, offset in enumerate(offsets) if offset <= wanted]
    assert index.floor_offset(entries, wanted) == (below[-1] if below else None)
    times = b"".join(index.TIME_ENTRY.pack(offset + T0, number) for number, offset in enumerate(offsets))
    assert index.floor_time(times, wanted + T0) == ((below[-1][0] + T0, below[-1][1]) if below else None)


def test_transaction_entries_round_trip() -> None:
    entry = index.AbortedTransaction(7, 10, 20, 15)
    raw = index.encode_txn(entry)
    assert raw == struct.pack(">hqqqq", 0, 7, 10, 20, 15) and len(raw) == 34
    assert list(index.parse_txn(raw + raw[:10])) == [entry]


# -- epochs


def test_end_offset_for_epoch_as_kip_101_says() -> None:
    epochs = LeaderEpochs([(2, 10), (4, 30), (5, 40)])
    assert epochs.end_offset_for(5, 99) == (5, 99)
    assert epochs.end_offset_for(4, 99) == (4, 40)
    assert epochs.end_offset_for(3, 99) == (2, 30)
    assert epochs.end_offset_for(1, 99) == (1, 10)
    assert epochs.end_offset_for(6, 99) == (-1, -1)
    assert LeaderEpochs().end_offset_for(0, 0) == (-1, -1)


def test_epochs_are_cut_at_both_ends() -> None:
    epochs = LeaderEpochs([(0, 0), (1, 10), (2, 20)])
    assert epochs.truncate_start(15) and epochs.entries == ((1, 15), (2, 20))
    assert not epochs.truncate_start(15)
    assert epochs.truncate_end(20) and epochs.entries == ((1, 15),)
    assert epochs.assign(3, 15) and epochs.entries == ((3, 15),)  # epoch 1 had no record left
    assert not epochs.assign(3, 50) and not epochs.assign(2, 50)
    assert (epochs.epoch_at(15), epochs.epoch_at(14), epochs.latest) == (3, -1, 3)


# -- producers


def header(sequence: int, count: int = 1, *, epoch: int = 0, offset: int = 0, producer: int = 9) -> BatchHeader:
    return BatchHeader(offset, 100, 0, 2, 0, 0, count - 1, T0, T0, producer, epoch, sequence, count)


def accept(producers: Producers, item: BatchHeader) -> None:
    assert producers.check([item]) is None
    producers.update(item, T0)


def test_the_last_five_batches_are_answered_again() -> None:
    producers = Producers(DAY)
    for number in range(7):
        accept(producers, header(number * 10, 10, offset=number * 100))
    for number in range(2, 7):
        found = producers.check([header(number * 10, 10)])
        assert found is not None and (found.first_offset, found.last_offset) == (number * 100, number * 100 + 9)
    with pytest.raises(OutOfOrderSequence):
        producers.check([header(10, 10)])  # older than what is remembered
    with pytest.raises(OutOfOrderSequence):
        producers.check([header(60, 5)])  # overlaps, is not the same batch


def test_gaps_and_epochs() -> None:
    producers = Producers(DAY)
    accept(producers, header(500))  # unknown producer: anywhere (KIP-360)
    with pytest.raises(OutOfOrderSequence, match="501 is expected"):
        producers.check([header(502)])
    with pytest.raises(OutOfOrderSequence):
        producers.check([header(7, epoch=1)])
    accept(producers, header(0, epoch=1))
    with pytest.raises(InvalidProducerEpoch):
        producers.check([header(501, epoch=0)])


def test_sequences_wrap() -> None:
    producers = Producers(DAY)
    accept(producers, header(SEQUENCE_MAX - 1, 2))
    accept(producers, header(0))
    again = Producers(DAY)
    accept(again, header(SEQUENCE_MAX, 3, offset=40))  # MAX, 0, 1
    found = again.check([header(SEQUENCE_MAX, 3)])
    assert found is not None and found.first_offset == 40
    accept(again, header(2))


def test_two_batches_of_one_append_follow_each_other() -> None:
    producers = Producers(DAY)
    assert producers.check([header(0, 5), header(5, 5)]) is None
    with pytest.raises(OutOfOrderSequence):
        producers.check([header(0, 5), header(6, 5)])


def test_snapshot_bytes_and_round_trip() -> None:
    producers = Producers(DAY)
    for number in range(6):
        accept(producers, header(number, offset=50 + number, producer=77, epoch=3))
    raw = producers.encode()
    body = struct.pack(">iqhiqiqiq", 1, 77, 3, 5, 55, 0, T0, -1, -1)
    assert raw == struct.pack(">hI", 1, crc32c(body)) + body
    again = Producers(DAY)
    again.load(raw, T0)
    found = again.check([header(5, producer=77, epoch=3)])
    assert found is not None and found.last_offset == 55
    accept(again, header(6, producer=77, epoch=3))


@given(st.integers(0, 8 * 53 - 1))
def test_any_flipped_bit_of_a_snapshot_is_found(bit: int) -> None:
    producers = Producers(DAY)
    producers.update(header(3, offset=8), T0)
    raw = bytearray(producers.encode())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    with pytest.raises(Corrupt):
        parse_snapshot(raw)


def test_producers_expire_by_arrival_not_by_timestamp() -> None:
    producers = Producers(DAY)
    old_event = header(0)._replace(base_timestamp=1000, max_timestamp=1000)
    producers.update(old_event, T0)
    assert producers.expire(T0 + DAY) == 0
    assert producers.expire(T0 + DAY + 1) == 1 and len(producers) == 0


def test_a_producer_of_a_clock_that_was_ahead_keeps_nobody_from_expiry() -> None:
    producers = Producers(DAY)
    producers.update(header(0, producer=1), T0 + 400 * DAY)
    producers.update(header(0, producer=2), T0)
    assert producers.expire(T0 + DAY + 1) == 1 and producers.get(2) is None
    assert producers.expire(T0 + 2 * DAY) == 0
    assert producers.expire(T0 + 2 * DAY + 2) == 1 and len(producers) == 0, "its time counts from when the clock was put right"


def test_expiry_looks_at_no_more_producers_than_are_due() -> None:
    producers = Producers(DAY)
    for number in range(4):
        producers.update(header(0, producer=number), T0 + number)
    producers.update(header(1, producer=0), T0 + 4)  # heard of again
    looks = []

    class Watched(dict[int, Producer]):
        def items(self) -> Any:
            return ((looks.append(producer_id), (producer_id, state))[1] for producer_id, state in super().items())

    producers._states = Watched(producers._states)
    assert producers.expire(T0 + DAY + 3) == 2
    assert looks == [1, 2, 3], "the first that is alive ends it"
    assert [producers.get(number) is not None for number in range(4)] == [True, False, False, True]
    again = Producers(DAY)
    again.load(producers.encode(), T0 + DAY + 3)
    assert again.expire(T0 + DAY + 3) == 0 and len(again) == 2


# -- roll

BOUNDS = Bounds(segment_bytes=1000, segment_ms=100, offset_entries_max=10, time_entries_max=10)
TAIL = Tail(base_offset=0, size=500, first_timestamp=T0, created_ms=T0, offset_entries=1, time_entries=1)


@pytest.mark.parametrize(
    ("tail", "append", "wanted"),
    [
        (TAIL, {}, Roll.NOT_YET),
        (TAIL, {"append_bytes": 500}, Roll.NOT_YET),
        (TAIL, {"append_bytes": 501}, Roll.FULL),
        (TAIL._replace(size=0), {"append_bytes": 1000}, Roll.NOT_YET),
        (TAIL, {"append_timestamp": T0 + 100}, Roll.NOT_YET),
        (TAIL, {"append_timestamp": T0 + 101}, Roll.OLD),
        (TAIL, {"append_timestamp": T0 - 10**9}, Roll.NOT_YET),  # older events never roll by time
        (TAIL._replace(first_timestamp=1000), {"append_timestamp": 1001}, Roll.NOT_YET),  # the data's time, not ours
        (TAIL._replace(first_timestamp=-1, created_ms=T0 - 101), {"append_timestamp": -1}, Roll.OLD),
        (TAIL._replace(offset_entries=10), {}, Roll.INDEX_FULL),
        (TAIL._replace(time_entries=9), {}, Roll.INDEX_FULL),
        (TAIL, {"last_offset": 2**31 - 1}, Roll.NOT_YET),
        (TAIL, {"last_offset": 2**31}, Roll.OFFSET_OVERFLOW),
        (TAIL._replace(size=0, first_timestamp=1), {"append_timestamp": T0}, Roll.NOT_YET),
    ],
)
def test_roll(tail: Tail, append: dict[str, int], wanted: Roll) -> None:
    asked = {"append_bytes": 100, "append_timestamp": T0, "last_offset": 10, "now_ms": T0, **append}
    assert plan_roll(tail, BOUNDS, **asked) is wanted


def test_idle_roll() -> None:
    assert plan_idle_roll(size=1, first_append_ms=T0, now_ms=T0 + 100, segment_ms=100) is Roll.NOT_YET
    assert plan_idle_roll(size=1, first_append_ms=T0, now_ms=T0 + 101, segment_ms=100) is Roll.OLD
    assert plan_idle_roll(size=0, first_append_ms=T0, now_ms=T0 + 999, segment_ms=100) is Roll.NOT_YET


# -- tails


def stamped(offset: int, *values: bytes) -> bytearray:
    raw = batch(*values)
    struct.pack_into(">q", raw, 0, offset)
    struct.pack_into(">i", raw, 12, 0)
    return raw


@given(st.data())
def test_every_single_flipped_bit_that_harms_is_recognised(data: st.DataObject) -> None:
    raw = stamped(7, b"some value", b"another")
    bit = data.draw(st.integers(0, len(raw) * 8 - 1).filter(lambda number: number // 8 not in range(12, 16)))
    raw[bit // 8] ^= 1 << bit % 8
    assert is_one_bit_off(bytes(raw) + bytes(stamped(9, b"next")), 7)


@given(st.data())
def test_at_the_end_of_the_file_too_but_for_the_last_bit_that_was_set(data: st.DataObject) -> None:
    raw = stamped(7, b"some value", b"another @")
    last = max(at for at, byte in enumerate(raw) if byte)
    assert last < len(raw) - 1, "a record ends with the number of its headers"
    bit = data.draw(st.integers(0, len(raw) * 8 - 1).filter(lambda number: number // 8 not in range(12, 16)))
    raw[bit // 8] ^= 1 << bit % 8
    assert is_one_bit_off(bytes(raw), 7, reaches_end=True) == bool(any(raw[last:]))


@given(st.binary(min_size=1, max_size=60), st.integers(0, 200), st.sampled_from([0, 1, 30]))
@example(b"@", len(stamped(7, b"@")) - 2, 0)
def test_a_last_append_that_is_zero_from_some_byte_on_is_cut(value: bytes, start: int, grown: int) -> None:
    """Also where that looks like one flipped bit: the last byte that is not zero may have a single one."""
    whole = stamped(7, value)
    torn = bytes(whole[: min(start, len(whole))]).ljust(len(whole), b"\0") + bytes(grown)
    if torn[: len(whole)] == whole:
        return
    one_bit = is_one_bit_off(torn, 7, reaches_end=True)
    unwritten = looks_unwritten(torn, 0, reaches_end=True)
    assert plan_tail(below_recovery_point=False, one_bit=one_bit, valid_follows=False, unwritten=unwritten) is Verdict.CUT


@given(st.integers(0, 140), st.binary(min_size=2, max_size=40))
def test_two_changes_are_not_one(position: int, junk: bytes) -> None:
    raw = stamped(7, b"x" * 100)
    before = bytes(raw)
    junk = junk[: len(raw) - position]
    raw[position : position + len(junk)] = junk
    changed = sum((a ^ b).bit_count() for a, b in zip(before, raw, strict=True))
    harmed = sum((a ^ b).bit_count() for i, (a, b) in enumerate(zip(before, raw, strict=True)) if i not in range(12, 16))
    if harmed > 1:
        # a few bit errors may by chance look like one elsewhere only if CRC-32C collides: distance is at least 4 at this length
        assert harmed >= 4 or not is_one_bit_off(bytes(raw), 7), (changed, header_at(raw))


def test_unwritten_bytes() -> None:
    good = bytes(stamped(0, b"v" * 2000))

    def unwritten(damage: bytes, position: int = 0, *, reaches_end: bool = False) -> bool:
        return looks_unwritten(damage, position, reaches_end=reaches_end)

    assert not unwritten(good)
    assert unwritten(bytes(500), 77)
    assert unwritten(good[:900] + bytes(len(good) - 900))
    assert unwritten(good[:900] + bytes(len(good) - 900) + good[:100])  # zero to the end of its first batch
    assert unwritten(good[:512] + bytes(512) + good[1024:])
    assert not unwritten(good[:513] + bytes(500) + good[1013:])  # no whole sector
    assert unwritten(bytes(12) + good[12:], 500)
    assert unwritten(good[:1000], reaches_end=True) and not unwritten(good[:1000])
    assert unwritten(good[:30])


@pytest.mark.parametrize(
    ("signs", "wanted"),
    [
        ((True, False, False, True), Verdict.DAMAGED),
        ((False, True, False, True), Verdict.DAMAGED),
        ((False, False, False, False), Verdict.CUT),
        ((False, False, True, True), Verdict.CUT),
        ((False, False, True, False), Verdict.DAMAGED),
    ],
)
def test_verdicts(signs: tuple[bool, bool, bool, bool], wanted: Verdict) -> None:
    below, one_bit, follows, unwritten = signs
    assert plan_tail(below_recovery_point=below, one_bit=one_bit, valid_follows=follows, unwritten=unwritten) is wanted


def test_deciders_know_neither_loop_nor_world() -> None:
    """The pure files import neither asyncio nor a port that acts."""
    folder = Path(index.__file__).parent
    for name in ("index", "epochs", "producers", "roll", "recovery", "checkpoints", "files", "segment"):
        text = (folder / f"{name}.py").read_text()
        assert "asyncio" not in text.replace("no asyncio", "") and "import Disk" not in text and "Clock" not in text, name
