"""Bytes that outlive us: golden files of every version, round trips, and what is refused.  `HOTLOG_WRITE_GOLDEN=1` writes them anew."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import codec
from controller.codec import Head, Ref, Retired
from controller.forms import Family, Json
from controller.image import ClusterImage, fold
from controller.records import (
    TYPES,
    BrokerConfigsChanged,
    FeaturesFinalized,
    NamedConfigsChanged,
    NamedKind,
    PartitionsAdded,
    ProducerIdsAllocated,
    Record,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicPurged,
    form,
    parse,
)
from hotlog.kernel.errors import Corrupt, UnknownVersion
from hotlog.kernel.versions import StoredFormat
from tests.controller.samples import FIRST, IMAGE, LATER, STORY

VERSION_PLACES = (6, 7)  # no CRC covers them: another version is believed, and refused
GOLDEN = Path(__file__).parent / "golden"
LINEAGE = codec.chained(codec.NO_LINEAGE, FIRST)
HEAD = Head(
    cluster_id="u4x8B2mZQ9yY0000000000",
    controller_epoch=2,
    controller_id=1,
    next_offset=40 + len(FIRST),
    lineage=LINEAGE,
    inline=tuple(FIRST),
    pages=(Ref("c/meta/log/30", 30, 40),),
    snapshot=Ref("c/meta/snapshot/30", 0, 30),
    retired=(Retired("c/meta/log/0", 1_700_000_000_000),),
    nonces=("aa", "bb"),
)
PAGE = Ref("c/meta/log/0", 0, len(FIRST))
LATER_PAGE = Ref("c/meta/log/15", len(FIRST), len(STORY))
OLD_SNAPSHOT, SNAPSHOT = Ref("c/meta/snapshot/15", 0, len(FIRST)), Ref("c/meta/snapshot/21", 0, IMAGE.offset)
ENDS = codec.Ends(
    directory_id="u4x8B2mZQ9yY0000000001",
    incarnation=UUID(int=9),
    is_final=True,
    noted_ms=1_700_000_000_000,
    ends={UUID(int=1): {0: 1_500, 1: 0}, UUID(int=2): {}},
)
BYTES = {
    "ends-v1": codec.encode_ends(ENDS),
    "head-v1": codec.encode_head(HEAD),
    "page-v1": codec.encode_page(0, FIRST),
    "page-v1-later": codec.encode_page(len(FIRST), LATER),
    "snapshot-v2": codec.encode_snapshot(IMAGE, LINEAGE),
    "cluster-v1": codec.seal(
        codec.MARKER, {"cluster_id": "u4x8B2mZQ9yY0000000000", "created_ms": 1_700_000_000_000, "nonce": "aa"}
    ),
}
DECODERS = {
    "ends-v1": lambda raw: codec.decode_ends(raw) == ENDS,
    "head-v1": lambda raw: codec.decode_head(raw) == HEAD,
    "page-v1": lambda raw: codec.decode_page(raw, PAGE) == tuple(FIRST),
    "page-v1-later": lambda raw: codec.decode_page(raw, LATER_PAGE) == tuple(LATER),
    "snapshot-v2": lambda raw: codec.decode_snapshot(raw, SNAPSHOT) == (IMAGE, LINEAGE),
    "cluster-v1": lambda raw: codec.unseal(codec.MARKER, raw)["cluster_id"] == HEAD.cluster_id,
}


@pytest.mark.parametrize("name", sorted(BYTES))
def test_golden_bytes_are_written_and_read(name: str) -> None:
    path = GOLDEN / f"{name}.bin"
    if os.environ.get("HOTLOG_WRITE_GOLDEN"):
        path.write_bytes(BYTES[name])
    assert path.read_bytes() == BYTES[name], "the format changed: that needs a new version, not a new golden file"
    assert DECODERS[name](path.read_bytes())


def test_a_snapshot_of_before_there_were_features_is_read() -> None:
    raw = (GOLDEN / "snapshot-v1.bin").read_bytes()
    assert codec.decode_snapshot(raw, OLD_SNAPSHOT) == (fold(ClusterImage(), FIRST), LINEAGE)


def test_every_record_type_is_in_the_story() -> None:
    assert {type(record) for record in STORY} == set(TYPES.values())


@pytest.mark.parametrize("name", sorted(BYTES))
def test_any_flipped_byte_and_any_cut_is_corrupt(name: str) -> None:
    raw = BYTES[name]
    for place in [*range(codec.PREFIX_BYTES), *range(codec.PREFIX_BYTES, len(raw), 37)]:
        damaged = bytearray(raw)
        damaged[place] ^= 0x10
        with pytest.raises(UnknownVersion if place in VERSION_PLACES else Corrupt):
            DECODERS[name](bytes(damaged))
    for length in [0, 3, codec.PREFIX_BYTES, len(raw) - 1]:
        with pytest.raises(Corrupt):
            DECODERS[name](raw[:length])


@pytest.mark.parametrize("name", sorted(BYTES))
def test_a_newer_version_is_refused_by_name_and_not_taken_for_damage(name: str) -> None:
    raw = bytearray(BYTES[name])
    newer = struct.unpack_from(">H", raw, 6)[0] + 1
    struct.pack_into(">H", raw, 6, newer)
    with pytest.raises(UnknownVersion, match=f"version {newer}"):
        DECODERS[name](bytes(raw))
    raw[-1] ^= 1
    with pytest.raises(Corrupt, match="CRC"):
        DECODERS[name](bytes(raw))


def test_a_head_of_the_version_before_is_read_through_the_upgrade_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the head had got something new in version 2: version 1 of it is read, version 0 never was."""
    stored = StoredFormat("metadata head", 2, {1: lambda body: {**body, "nonces": [*body["nonces"], "upgraded"]}})
    monkeypatch.setitem(codec.FORMATS, codec.HEAD, stored)
    head = codec.decode_head(BYTES["head-v1"])
    assert head.nonces == ("aa", "bb", "upgraded")
    assert codec.decode_head(codec.encode_head(head)) == head, "what is written is version 2, and needs no upgrade"
    assert codec.decode_page(BYTES["page-v1"], PAGE) == tuple(FIRST), "the other kinds stay as they are"
    raw = bytearray(BYTES["head-v1"])
    struct.pack_into(">H", raw, 6, 0)
    with pytest.raises(Corrupt, match="version 0"):
        codec.decode_head(bytes(raw))


@dataclass(frozen=True, kw_only=True)
class Renamed(Record):
    """What a record could be that has a version before it."""

    TYPE = "renamed"
    VERSION = 2
    name: str
    by: int


def test_a_record_of_the_version_before_is_read_through_the_upgrade_table() -> None:
    family = Family("record", {"renamed": Renamed}, {"renamed": {1: lambda body: {**body, "by": -1}}})
    assert family.parse({"type": "renamed", "version": 1, "name": "a"}) == Renamed(name="a", by=-1)
    assert family.parse(family.form(Renamed(name="a", by=5))) == Renamed(name="a", by=5)
    with pytest.raises(UnknownVersion, match="renamed has format version 3"):
        family.parse({"type": "renamed", "version": 3, "name": "a", "by": 5})
    with pytest.raises(Corrupt, match="cannot be read"):
        family.parse({"type": "renamed", "version": 2, "name": "a"})


def test_a_gap_in_a_head_is_refused() -> None:
    for head in (
        Head(**{**HEAD.__dict__, "next_offset": HEAD.next_offset + 1}),
        Head(**{**HEAD.__dict__, "pages": (Ref("c/meta/log/31", 31, 40),)}),
        Head(**{**HEAD.__dict__, "snapshot": None}),
    ):
        with pytest.raises(Corrupt, match="gap"):
            codec.decode_head(codec.encode_head(head))


@pytest.mark.parametrize(
    "body",
    [
        {"type": "topic-deleted", "version": 1},
        {"type": "topic-deleted", "version": 1, "topic_id": "not a uuid"},
        {"type": "topic-deleted", "version": 1, "topic_id": str(UUID(int=1)), "more": 1},
        {"type": "controller-claimed", "version": 1, "epoch": True, "node_id": 1},
        {"type": "partitions-added", "version": 1, "topic_id": str(UUID(int=1)), "partitions": [["1"]]},
        {"type": "topic-deleted", "version": 0, "topic_id": str(UUID(int=1))},
        {"type": "topic-deleted", "version": "1", "topic_id": str(UUID(int=1))},
        [],
        None,
    ],
)
def test_records_that_nobody_can_have_written_are_corrupt(body: object) -> None:
    with pytest.raises(Corrupt):
        parse(body)


@pytest.mark.parametrize(
    "body",
    [{"type": "topic-renamed", "version": 1}, {"type": "topic-deleted", "version": 2, "topic_id": str(UUID(int=1))}],
)
def test_records_of_a_newer_program_are_refused_by_name(body: Json) -> None:
    with pytest.raises(UnknownVersion, match=body["type"]):
        parse(body)


ids = st.integers(1, 6).map(lambda number: UUID(int=number))
names = st.text("abc._", min_size=1, max_size=4)
configs = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
changes = st.dictionaries(st.text(max_size=5), st.none() | st.text(max_size=5), max_size=3)
replicas = st.lists(st.tuples(st.integers(0, 3)), min_size=1, max_size=3).map(tuple)
records = st.one_of(
    st.builds(TopicCreated, topic_id=ids, name=names, partitions=replicas, configs=configs, created_ms=st.integers(0, 2**48)),
    st.builds(TopicDeleted, topic_id=ids),
    st.builds(TopicPurged, topic_id=ids),
    st.builds(PartitionsAdded, topic_id=ids, partitions=replicas),
    st.builds(TopicConfigsChanged, topic_id=ids, configs=changes),
    st.builds(BrokerConfigsChanged, node_id=st.integers(-1, 2), configs=changes),
    st.builds(FeaturesFinalized, levels=st.dictionaries(st.text(max_size=5), st.integers(0, 3), max_size=3)),
    st.builds(NamedConfigsChanged, kind=st.sampled_from(NamedKind), name=names, configs=changes),
    st.integers(0, 100).map(lambda n: ProducerIdsAllocated(node_id=1, start=n * 1000, end=n * 1000 + 1000)),
    st.sampled_from(STORY),
)


def possible(stories: list[Record]) -> tuple[ClusterImage, list[Record]]:
    """The records that can follow each other, and their fold one by one."""
    image, kept = ClusterImage(), []
    for record in stories:
        try:
            image = fold(image, [record])
        except Corrupt:
            continue
        kept.append(record)
    return image, kept


@given(st.lists(records, max_size=25), st.integers(0, 25))
def test_fold_of_a_journal_is_fold_of_snapshot_and_tail(story: list[Record], cut: int) -> None:
    one_by_one, kept = possible(story)
    whole = fold(ClusterImage(), kept)
    assert whole == one_by_one
    head, tail = kept[:cut], kept[cut:]
    half = fold(ClusterImage(), head)
    raw = codec.encode_snapshot(half, codec.chained(codec.NO_LINEAGE, head))
    snapshot, lineage = codec.decode_snapshot(raw, Ref("s", 0, half.offset))
    assert fold(snapshot, tail) == whole
    assert codec.chained(lineage, tail) == codec.chained(codec.NO_LINEAGE, kept)
    page = codec.encode_page(half.offset, tail)
    assert list(codec.decode_page(page, Ref("p", half.offset, whole.offset))) == tail


@given(records)
def test_a_record_survives_its_form(record: Record) -> None:
    assert parse(form(record)) == record


def test_unchanged_topics_are_the_same_objects() -> None:
    before = fold(ClusterImage(), STORY[:5])
    after = fold(before, [STORY[5]])
    assert after.topics["clicks"] is before.topics["clicks"]
    assert after.topics["views"] is not before.topics["views"]


@pytest.mark.parametrize("record", [STORY[2], STORY[0], STORY[10], PartitionsAdded(topic_id=UUID(int=99), partitions=((1,),))])
def test_a_record_that_cannot_follow_is_corrupt(record: Record) -> None:
    with pytest.raises(Corrupt):
        fold(IMAGE if record is not STORY[2] else fold(ClusterImage(), STORY[:3]), [record])
