"""Requests of every API version: what a client can send is read as kio reads it, what lies never reaches kio's reader."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

import hotlog.apis
from hotlog.front.dispatch import MODULES, load_apis
from hotlog.kernel.errors import Invalid
from hotlog.wire import apis
from hotlog.wire.bounds import step_for
from tests.wire.strategies import entities, read, written

SERVED = [(api.key, version) for api in load_apis() for version in api.versions]


@pytest.mark.parametrize(("key", "version"), SERVED)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_valid_request_is_walked_to_its_end_and_read_as_written(key: int, version: int, data: st.DataObject) -> None:
    kind = apis.request_type(key, version)
    entity = data.draw(entities(kind))
    body = written(entity)
    frame = memoryview(bytearray(b"head" + body))
    assert step_for(kind)(frame, 4, len(frame)) == len(frame)
    assert apis.decode_request(key, version, frame, 4) == read(kind, body)


@pytest.mark.parametrize(("key", "version"), SERVED)
@settings(max_examples=8, deadline=None)
@given(junk=st.binary(max_size=80) | st.lists(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]), max_size=80).map(bytes))
def test_junk_is_a_structure_or_invalid_and_nothing_else(key: int, version: int, junk: bytes) -> None:
    door = next(api for api in load_apis() if api.key == key)
    decode: Any = door.decode or (lambda v, frame, at: apis.decode_request(key, v, frame, at))
    try:
        decode(version, memoryview(bytearray(junk)), 0)
    except Invalid as refusal:
        assert "malformed" in str(refusal)


@pytest.mark.parametrize("count", [2**31 - 1, 10**6, 5])
def test_an_array_that_claims_more_than_is_there_is_refused_before_memory_is_taken(count: int) -> None:
    body = struct.pack(">i", count)  # Metadata version 1: an array of topic names
    with pytest.raises(Invalid, match=f"array of {count} elements in 0 bytes"):
        apis.decode_request(3, 1, memoryview(bytearray(body)), 0)


def test_tagged_fields_of_a_newer_client_are_left_out() -> None:
    shapes = apis.requests(60, 1)  # DescribeCluster: two booleans and a byte, then tags
    entity = shapes.DescribeClusterRequest(include_cluster_authorized_operations=True, endpoint_type=1)
    plain = written(entity)
    assert plain.endswith(b"\0")
    newer = memoryview(plain[:-1] + b"\x02" + b"\x64\x03abc" + b"\xc8\x01\x00")
    assert apis.decode_request(60, 1, newer, 0) == entity
    with pytest.raises(Invalid, match="unknown tagged fields"):
        apis.decode_request(60, 1, memoryview(plain[:-1] + b"\x40" + b"\x64\x00" * 64), 0)


@given(junk=st.binary(max_size=40))
def test_a_header_is_parsed_or_invalid(junk: bytes) -> None:
    try:
        header, position = apis.parse_header(memoryview(junk))
    except Invalid:
        return
    assert position <= len(junk)
    assert header.client_id is None or header.client_id.encode() == junk[10:position]


def test_tags_of_a_header_are_skipped_and_must_be_inside() -> None:
    frame = memoryview(b"\x02\x00\x03abc\x07\x00rest")
    assert bytes(frame[apis.skip_tags(frame, 0) :]) == b"rest"
    with pytest.raises(Invalid, match="runs over the end"):
        apis.skip_tags(memoryview(b"\x01\x00\x09abc"), 0)


def test_shapes_drop_what_a_version_lacks_and_refuse_what_no_version_has() -> None:
    old, new = apis.responses(3, 1), apis.responses(3, 13)
    fields = {
        "error_code": ErrorCode.none, "name": "t", "topic_id": None, "is_internal": False, "partitions": (),
        "topic_authorized_operations": 0,
    }  # fmt: skip
    assert not hasattr(old.MetadataResponseTopic(**fields), "topic_id")
    assert new.MetadataResponseTopic(**fields).topic_id is None
    with pytest.raises(AssertionError, match="no_such_field"):
        old.MetadataResponseTopic(**fields, no_such_field=1)
    assert not old.has("NoSuchStructure")


@pytest.mark.parametrize(("key", "version"), SERVED)
def test_a_refusal_is_a_response_of_that_version(key: int, version: int) -> None:
    response = apis.empty_response(key, version, error_code=ErrorCode.unknown_server_error)
    if response is not None:
        kind = apis.response_type(key, version)
        assert read(kind, written(response)).error_code is ErrorCode.unknown_server_error


def test_every_module_in_the_table_is_there_and_its_file_name_is_its_key() -> None:
    found = load_apis()
    assert [f"k{api.key:02}" for api in found] == [name[:3] for name in MODULES]
    folder = Path(hotlog.apis.__path__[0])
    assert {path.stem for path in folder.iterdir() if path.name[:2] != "__"} == {*MODULES, "fetch", "produce"}, (
        "one file per API, and the rooms of the two large ones"
    )


def test_versions_are_ones_kio_knows() -> None:
    for api in load_apis():
        known = apis.versions_known(api.key)
        assert known.start <= api.versions.start, api.name
        assert api.versions.stop <= known.stop, api.name
