"""The short way of Fetch against the general one, in bytes: what a request is known by, what is answered."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.wire.apis import parse_header, response_head, skip_tags
from hotlog.wire.fetch_reply import PartitionReply, encode
from hotlog.wire.fetch_request import FLEXIBLE_FROM, SESSIONS_FROM, TOPIC_ID_FROM, VERSIONS, FetchRequest, decode
from hotlog.wire.fetch_short import NOT_SHORT, OFFSET_BYTES, Answers, asked, offset_at, split_of
from tests.wire.serving import fetch, frame_of

NAMES = st.text(min_size=1, max_size=40)
NONE = ErrorCode.none


def request_frame(version: int, client: str | None, name: str = "t", index: int = 0, offset: int = 0, **options: Any) -> bytes:
    """A request without its size."""
    return frame_of(fetch(name, {index: offset}, version=version, **options), 7, client)[4:]


def read_generally(version: int, frame: memoryview) -> FetchRequest:
    _, position = parse_header(frame)
    return decode(version, frame, skip_tags(frame, position) if version >= FLEXIBLE_FROM else position)


def known_by(version: int, data: memoryview, start: int, end: int) -> bytes:
    """The bytes that a request is known by."""
    behind, at = split_of(version)(data, start, end)
    return bytes(data[behind:at]) + bytes(data[at + OFFSET_BYTES : end])


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=25, deadline=None)
@given(
    name=NAMES, topic_id=st.uuids(), index=st.integers(0, 2**31 - 1), offset=st.integers(-(2**63), 2**63 - 1), wait_ms=st.integers(0, 2**31 - 1),
    bytes_min=st.integers(0, 2**31 - 1), isolation=st.integers(0, 1), epoch=st.integers(-1, 2**31 - 1),
    client=st.none() | st.text(st.characters(max_codepoint=127), max_size=20), before=st.integers(0, 9),
)  # fmt: skip
def test_a_request_is_known_by_all_of_its_bytes_but_the_offset(
    version: int, name: str, topic_id: UUID, index: int, offset: int, wait_ms: int, bytes_min: int, isolation: int, epoch: int,
    client: str | None, before: int,
) -> None:  # fmt: skip
    """Wherever it lies in a larger buffer."""
    options = {"wait_ms": wait_ms, "bytes_min": bytes_min, "isolation": isolation, "leader_epoch": epoch, "topic_id": topic_id}
    frame, other = (request_frame(version, client, name, index, each, **options) for each in (offset, offset ^ 77))
    if len(name.encode()) > 126 and FLEXIBLE_FROM <= version < TOPIC_ID_FROM:
        return
    data, end = memoryview(b"b" * before + frame + b"after"), before + len(frame)
    _, at = split_of(version)(data, before, end)
    assert offset_at(data, at) == offset
    assert asked(version, data, before, end, at) == read_generally(version, memoryview(frame))
    assert known_by(version, data, before, end) == known_by(version, memoryview(other), 0, len(other))


JUNK = st.binary(min_size=1, max_size=3) | st.sampled_from([b"\0", b"\1", b"\2", b"\3", b"\x80", b"\x80\0", b"\xff", b"\xff\xff"])


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=80, deadline=None)
@given(
    name=st.text(min_size=1, max_size=5), topic_id=st.uuids(), at=st.integers(0, 110), junk=JUNK, is_put_in=st.booleans(),
    session=st.sampled_from([(0, -1), (0, -1), (0, 0), (5, 1)]), forgotten=st.sampled_from([(), (), (1,)]), more=st.sampled_from([b"", b"", b"\0\0"]),
)  # fmt: skip
def test_what_is_bent_is_known_as_the_general_way_reads_it_or_not_at_all(
    version: int, name: str, topic_id: UUID, at: int, junk: bytes, is_put_in: bool, session: tuple[int, int], forgotten: tuple[int, ...], more: bytes
) -> None:  # fmt: skip
    gone = forgotten if version >= SESSIONS_FROM else ()
    straight = request_frame(version, "c", name, topic_id=topic_id, session=session, forgotten=gone)
    at = min(at + 8, len(straight))
    frame = straight[:at] + junk + straight[at if is_put_in else at + len(junk) :] + more
    data = memoryview(frame)
    with suppress(*NOT_SHORT):
        _, position = split_of(version)(data, 0, len(frame))
        request = asked(version, data, 0, len(frame), position)
        read = read_generally(version, data)
        assert request == read
        assert (read.session_id, read.session_epoch) == (0, -1)
        assert [wanted.offset for wanted in read.partitions.values()] == [offset_at(data, position)]
        changed = bytearray(frame)
        struct.pack_into(">q", changed, position, 99)
        (wanted,) = read_generally(version, memoryview(changed)).partitions.values()
        assert wanted.offset == 99
    with suppress(*NOT_SHORT):  # who has the same bytes asks for the same
        if known_by(version, data, 0, len(frame)) == known_by(version, memoryview(straight), 0, len(straight)):
            ours, theirs = read_generally(version, data), read_generally(version, memoryview(straight))
            assert ours.partitions.keys() == theirs.partitions.keys()
            assert ours._replace(partitions={}) == theirs._replace(partitions={})


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=20, deadline=None)
@given(
    name=NAMES, topic_id=st.uuids(), index=st.integers(0, 2**31 - 1), high=st.integers(0, 2**63 - 1), stable=st.integers(0, 2**63 - 1),
    start=st.integers(0, 2**63 - 1), correlation=st.integers(-(2**31), 2**31 - 1), is_committed_only=st.booleans(),
    size=st.sampled_from([0, 1, 126, 127, 128, 8_192, 16_383, 16_384]),
)  # fmt: skip
def test_answers_are_those_of_the_general_way(
    version: int, name: str, topic_id: UUID, index: int, high: int, stable: int, start: int, correlation: int, is_committed_only: bool, size: int
) -> None:  # fmt: skip
    topic = topic_id if version >= TOPIC_ID_FROM else name
    answers = Answers(version, topic, index, is_committed_only=is_committed_only)
    records = b"r" * size
    reply = PartitionReply(index, NONE, high, stable, start, () if is_committed_only else None, records)
    buffers, length = encode(version, [(topic, [reply])])
    theirs = response_head(1, version, correlation, length) + b"".join(buffers)  # type: ignore[arg-type]
    assert answers.head(high, stable, start, size) + records + answers.end == theirs[8:]
