"""The map of keys and what remains by it: the native one held against plain Python, and both against the rule itself."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.wire import key_map
from hotlog.wire.batch import DELETE_HORIZON_MASK, TIMESTAMP_TYPE_MASK, TRANSACTIONAL_MASK, crc_ok, header_at, walk
from hotlog.wire.key_map import FORCED, UNCHECKED, KeyMap, NativeKeyMap, PlainKeyMap, Rules, Why, emptied, room_for, with_horizon
from hotlog.wire.records import decode_batch
from tests.fixtures.key_maps import SEED, kind, native_or_skip
from tests.fixtures.raw_batch import RawRecord, raw_batch

__all__ = ["kind"]  # a fixture
Kind = type[NativeKeyMap] | type[PlainKeyMap]
NOW = 1_700_000_000_000


class Given(NamedTuple):
    """A batch and what was put into it."""

    data: bytes
    base: int
    records: list[RawRecord]


_VALUE = st.none() | st.binary(max_size=40)
_RECORD = st.builds(
    RawRecord,
    timestamp=st.integers(-1, 5) | st.integers(NOW - 10**6, NOW + 10**6) | st.integers(-(2**62), 2**62),
    key=st.none() | st.sampled_from([b"", b"a", b"b", b"key-c", b"a key of more than sixteen bytes"]),
    value=_VALUE,
    headers=st.lists(st.tuples(st.binary(max_size=3), _VALUE), max_size=2),
    attributes=st.integers(-128, 127),
)


@st.composite
def _batches(draw: st.DrawFn, plain: bool = True) -> list[Given]:
    """Batches of a log, in order, with gaps between them and within."""
    found, offset = [], draw(st.integers(0, 5))
    for _ in range(draw(st.integers(1, 5))):
        records = draw(st.lists(_RECORD, min_size=1, max_size=5))
        delta, spaced = -1, []
        for record in records:
            delta += draw(st.integers(1, 2))
            spaced.append(record._replace(delta=delta))
        last = delta + draw(st.integers(0, 1))
        attributes = draw(st.sampled_from([0, 0, 0, TIMESTAMP_TYPE_MASK, DELETE_HORIZON_MASK]))
        if not plain:
            attributes |= draw(st.sampled_from([0, TRANSACTIONAL_MASK]))
        data = raw_batch(
            spaced,
            "none" if plain else draw(st.sampled_from(["none", "none", "gzip"])),
            base_timestamp=draw(st.sampled_from([0, NOW - 5, NOW + 5])),
            base_offset=offset,
            last_offset_delta=last,
            attributes=attributes,
            producer=draw(st.sampled_from([(-1, -1, -1), (-1, -1, -1), (7, 0, 3)])),
        )
        found.append(Given(bytes(data), offset, spaced))
        offset += last + 1 + draw(st.integers(0, 2))
    return found


def joined(batches: list[Given]) -> bytes:
    return b"".join(batch.data for batch in batches)


def both() -> tuple[KeyMap, KeyMap]:
    key_map._keys = native_or_skip()  # type: ignore[assignment]
    return NativeKeyMap(100, SEED), PlainKeyMap(100)


RULES = st.builds(
    Rules, latest=st.integers(-1, 30), now_ms=st.sampled_from([-1, NOW]), horizon_ms=st.just(NOW + 1000), upper=st.integers(0, 30)
)


@settings(max_examples=400)
@given(
    batches=_batches(plain=False), start=st.integers(0, 12), rules=RULES, forced=st.booleans(), keys_max=st.integers(1, 6),
    flip=st.none() | st.tuples(st.integers(0, 2000), st.integers(0, 255)), cut=st.integers(0, 3),
)  # fmt: skip
def test_the_native_map_says_what_plain_python_says(
    batches: list[Given], start: int, rules: Rules, forced: bool, keys_max: int, flip: tuple[int, int] | None, cut: int
) -> None:
    """Also of bytes that are wrong behind a CRC that nobody looks at."""
    both()
    native, plain = NativeKeyMap(keys_max, SEED), PlainKeyMap(keys_max)
    data = bytearray(joined(batches))
    flags = FORCED * forced
    if flip is not None:
        data[flip[0] % len(data)] = flip[1]
        flags |= UNCHECKED
    del data[len(data) - cut :]
    noted = native.note(data, start, start - 1, flags)
    assert noted == plain.note(data, start, start - 1, flags)
    assert native.used == plain.used
    out, other = bytearray(room_for(len(data))), bytearray(room_for(len(data)))
    sifted = native.sift(data, out, rules, flags)
    assert sifted == plain.sift(data, other, rules, flags)
    assert out[: sifted.written] == other[: sifted.written]


def expected(batches: list[Given], newest: dict[bytes, int], rules: Rules) -> list[tuple[int, RawRecord]]:
    """The rule, record by record."""
    kept = []
    for batch in batches:
        header = header_at(batch.data)
        is_expired = bool(header.attributes & DELETE_HORIZON_MASK) and rules.now_ms >= header.base_timestamp
        for record in batch.records:
            offset = batch.base + (record.delta or 0)
            is_old = record.key is None or newest.get(record.key, -1) > offset or (record.value is None and is_expired)
            if offset > rules.latest or not is_old:
                kept.append((offset, record))
    return kept


@settings(max_examples=300)
@given(batches=_batches(), start=st.integers(0, 12), rules=RULES)
def test_what_remains_is_the_newest_of_every_key_as_it_was(batches: list[Given], start: int, rules: Rules) -> None:
    for keys in both():
        check_remains(keys, batches, start, rules)


def check_remains(keys: KeyMap, batches: list[Given], start: int, rules: Rules) -> None:
    data = joined(batches)
    noted = keys.note(data, start, start - 1)
    assert (noted.position, noted.why) == (len(data), Why.END)
    last = header_at(batches[-1].data).last_offset
    assert noted.latest == (last if last >= start else start - 1)
    newest: dict[bytes, int] = {}
    for batch in batches:
        for record in batch.records:
            offset = batch.base + (record.delta or 0)
            if record.key is not None and offset >= start:
                newest[record.key] = offset
    assert keys.used == len(newest)
    rules = rules._replace(upper=-1)
    wanted, found, at, end = expected(batches, newest, rules), [], 0, -1
    out = bytearray(room_for(len(data)))
    seen = kept = 0
    while True:
        done = keys.sift(data[at:], out, rules)
        seen, kept = seen + done.seen, kept + done.kept
        for position, header in walk(memoryview(out)[: done.written]):
            batch = memoryview(out)[position : position + header.size]
            assert crc_ok(batch)
            origin = next(given for given in batches if given.base == header.base_offset)
            was = header_at(origin.data)
            assert header.last_offset == was.last_offset and header[9:12] == was[9:12] and header.leader_epoch == was.leader_epoch
            times = {record.timestamp for offset, record in wanted if origin.base <= offset <= was.last_offset}
            records = decode_batch(batch) if all(record.attributes >= 0 for record in origin.records) else None
            has_tombstone = any(record.value is None for offset, record in wanted if origin.base <= offset <= was.last_offset)
            marked = bool(header.attributes & DELETE_HORIZON_MASK)
            assert marked == (has_tombstone or bool(was.attributes & DELETE_HORIZON_MASK))
            if marked and not was.attributes & DELETE_HORIZON_MASK:
                assert header.base_timestamp == rules.horizon_ms
            if header.record_count < was.record_count and not header.is_log_append_time:
                assert header.max_timestamp == max(-1, *times)
            if records is not None:
                found += [(each.offset, each.key, each.value) for each in records]
                if not header.is_log_append_time:
                    by_offset = dict(wanted)
                    assert [each.timestamp for each in records] == [by_offset[each.offset].timestamp for each in records]
            else:
                found += [(o, r.key, r.value) for o, r in wanted if origin.base <= o <= was.last_offset]
        end = max(end, done.end)
        at += done.position
        if done.why is Why.EMPTY:  # of a producer
            header = header_at(data, at)
            assert header.producer_id >= 0
            assert not [offset for offset, _ in wanted if header.base_offset <= offset <= header.last_offset]
            seen += header.record_count
            at += header.size
        else:
            assert done.why is Why.END
            break
    assert found == [(offset, record.key, record.value) for offset, record in wanted]
    assert (seen, kept) == (sum(len(batch.records) for batch in batches), len(wanted))


def keyed(base: int, *keys: bytes, **options: object) -> bytes:
    return bytes(raw_batch([RawRecord(NOW, key, b"v") for key in keys], base_offset=base, **options))  # type: ignore[arg-type]


def test_a_full_map_says_where_it_stopped(kind: Kind) -> None:
    keys = kind(2, SEED)
    data = keyed(0, b"a", b"b", b"a") + keyed(3, b"b", b"c") + keyed(5, b"a")
    noted = keys.note(data, 0, -1)
    assert (noted.position, noted.latest, noted.why, keys.used) == (len(keyed(0, b"a", b"b", b"a")), 2, Why.FULL, 2)
    out = bytearray(room_for(len(data)))
    done = keys.sift(data, out, Rules(noted.latest, NOW, NOW, -1))
    remaining = [r.offset for at, h in walk(memoryview(out)[: done.written]) for r in decode_batch(out[at : at + h.size])]
    assert remaining == [2, 3, 4, 5], "what lies behind remains, also older ones of a key"


def test_a_batch_that_is_copied_whole_has_the_same_bytes(kind: Kind) -> None:
    keys = kind(9, SEED)
    first, second = keyed(0, b"a", b"b"), keyed(2, b"c")
    keys.note(first + second, 0, -1)
    out = bytearray(room_for(1000))
    done = keys.sift(first + second, out, Rules(10, NOW, NOW, -1))
    assert (out[: done.written], done.changed, done.end, done.last) == (first + second, 0, 3, len(first))


def test_what_is_not_looked_into_is_the_callers(kind: Kind) -> None:
    out = bytearray(room_for(1000))
    for attributes, codec in ((TRANSACTIONAL_MASK, "none"), (TRANSACTIONAL_MASK | 0x20, "none"), (0, "gzip")):
        data = keyed(0, b"a") + keyed(1, b"a", attributes=attributes, codec=codec)
        keys = kind(9, SEED)
        assert keys.note(data, 0, -1) == (len(keyed(0, b"a")), 0, Why.OPEN)
        assert keys.sift(data, out, Rules(0, NOW, NOW, -1)).why is Why.OPEN
    data = keyed(0, b"a", attributes=TRANSACTIONAL_MASK)
    assert kind(9, SEED).note(data, 0, -1, FORCED).why is Why.END


def test_a_flipped_bit_is_seen(kind: Kind) -> None:
    data = bytearray(keyed(0, b"a") + keyed(1, b"b"))
    data[-2] ^= 4
    assert kind(9, SEED).note(data, 0, -1) == (len(keyed(0, b"a")), 0, Why.BAD)
    assert kind(9, SEED).sift(data, bytearray(room_for(1000)), Rules(9, NOW, NOW, -1)).why is Why.BAD


def test_the_last_batch_of_all_and_those_of_producers_are_not_dropped_here(kind: Kind) -> None:
    keys = kind(9, SEED)
    data = keyed(0, b"a") + keyed(1, b"a", producer=(5, 0, 0)) + keyed(2, b"a") + keyed(3, b"a")
    keys.note(data, 0, -1)
    out = bytearray(room_for(len(data)))
    done = keys.sift(data, out, Rules(3, NOW, NOW, 3))
    assert (done.why, done.written, done.changed, done.last) == (Why.EMPTY, 0, 1, 0)
    at = done.position + header_at(data, done.position).size
    done = keys.sift(data[at:], out, Rules(3, NOW, NOW, 3))
    assert (done.why, done.position) == (Why.EMPTY, 0), "it ends at the upper bound"
    at += header_at(data, at).size
    assert keys.sift(data[at:], out, Rules(3, NOW, NOW, 3)).written == len(keyed(3, b"a"))


def test_without_room_it_says_so(kind: Kind) -> None:
    keys, data = kind(9, SEED), keyed(0, b"a") + keyed(1, b"b")
    assert keys.sift(data, bytearray(10), Rules(-1, NOW, NOW, -1))[:3] == (0, 0, Why.ROOM)


def test_an_emptied_batch_keeps_its_place_and_producer() -> None:
    header = header_at(keyed(5, b"a", b"b", producer=(7, 2, 40), codec="gzip"))
    data = memoryview(emptied(header))
    now = header_at(data)
    assert crc_ok(data) and len(data) == now.size == 61 and decode_batch(data) == []
    assert (now.base_offset, now.last_offset, now.producer_id, now.producer_epoch, now.last_sequence) == (5, 6, 7, 2, 41)
    assert (now.codec, now.record_count, now.max_timestamp) == (0, 0, NOW)


def test_a_horizon_is_set_without_changing_a_time() -> None:
    raw = raw_batch([RawRecord(NOW + n, b"k", None) for n in (0, 7, -3)], base_offset=4)
    marked = with_horizon(header_at(raw), memoryview(raw), NOW + 99)
    assert header_at(marked).base_timestamp == NOW + 99 and header_at(marked).attributes == DELETE_HORIZON_MASK
    assert [(r.offset, r.timestamp) for r in decode_batch(marked)] == [(4, NOW), (5, NOW + 7), (6, NOW - 3)]


def test_the_native_map_reads_and_writes_nothing_outside() -> None:
    """Batches end where memory ends; so does what remains."""
    native_or_skip()
    script = """
import ctypes, mmap
from tests.fixtures.walks import built
from tests.fixtures.raw_batch import RawRecord, raw_batch
keys, page = built("_keys"), mmap.PAGESIZE
area = mmap.mmap(-1, 2 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), page, 0) == 0
table = bytearray(24 * 64)
for cut in range(40):
    data = bytes(raw_batch([RawRecord(5, b"k%d" % n, b"v") for n in range(9)]))
    for size in (len(data), len(data) - cut):
        at = page - size
        area[at:page] = data[:size]
        view = memoryview(area)[at:page]
        for flags in (0, 3):
            keys.note(table, 0, 60, bytes(16), view, 0, -1, flags)
            keys.sift(table, bytes(16), view, bytearray(2 * len(data)), 99, 0, 9, -1, flags)
    broken = bytearray(data)
    broken[61 + cut % (len(data) - 61)] = 0x7F
    at = page - len(data)
    area[at:page] = broken
    keys.note(table, 0, 60, bytes(16), memoryview(area)[at:page], 0, -1, 3)
    keys.sift(table, bytes(16), memoryview(area)[at:page], bytearray(2 * len(data)), 99, 0, 9, -1, 3)
print("sound")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "sound", done.stderr[-2000:]
