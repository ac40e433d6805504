"""Object keys: parse(build(x)) == x, ids only, and what was not built here is not ours."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import Invalid
from hotlog.kernel.ids import PartitionId
from tests.tiering.support import CLUSTER, KEYS, PID
from tiering.objects.keys import PartitionKeys, data_prefix, page_name, parse_key, segment_name
from tiering.store.keys import check_key

offsets = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 2**31 - 1)
nonces = st.uuids().map(lambda value: value.hex)
pids = st.builds(PartitionId, st.uuids(), st.integers(0, 2**31 - 1))


@given(pid=pids, base=offsets, epoch=epochs, nonce=nonces)
def test_segment_keys_go_round(pid: PartitionId, base: int, epoch: int, nonce: str) -> None:
    name = segment_name(base, epoch, nonce)
    key = check_key(PartitionKeys(CLUSTER, pid).object(name))
    parsed = parse_key(key)
    assert parsed is not None
    assert (parsed.cluster_id, parsed.pid, parsed.kind, parsed.name) == (CLUSTER, pid, "segment", name)
    assert (parsed.start_offset, parsed.epoch, parsed.nonce) == (base, epoch, nonce)


@given(pid=pids, start=offsets, nonce=nonces, length=st.integers(1, 10**9))
def test_page_and_manifest_keys_go_round(pid: PartitionId, start: int, nonce: str, length: int) -> None:
    keys = PartitionKeys(CLUSTER, pid)
    start = min(start, 2**63 - 1 - length)
    parsed = parse_key(keys.object(page_name(start, start + length, nonce)))
    assert parsed is not None
    assert (parsed.kind, parsed.pid, parsed.start_offset, parsed.end_offset) == ("archive", pid, start, start + length)
    manifest = parse_key(keys.manifest)
    assert manifest is not None
    assert (manifest.kind, manifest.pid) == ("manifest", pid)


def test_layout_is_pinned() -> None:
    """Bytes that outlive us: changing these strands every bucket."""
    assert KEYS.manifest == "kL9cluster_id-0123456A/data/be/00112233-4455-6677-8899-aabbccddeeff/0/manifest"
    assert segment_name(42, 7, "ab" * 16) == "00000000000000000042-7-abababababababababababababababab.seg"
    assert page_name(0, 128, "cd" * 16) == (
        "archive/00000000000000000000-00000000000000000128-cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd.parquet"
    )


@pytest.mark.parametrize(
    "key",
    [
        "", "manifest", KEYS.manifest + "x", KEYS.manifest.replace("/0/", "/00/"), KEYS.manifest.replace("/be/", "/bf/"),
        KEYS.prefix + "notes.txt", KEYS.prefix + "../manifest", KEYS.prefix + "42-7-ab.seg",
        KEYS.object(segment_name(1, 1, "ab" * 16)).upper(), "other/" + KEYS.manifest, KEYS.prefix + "archive/1-2-3.parquet",
        KEYS.manifest.replace("/data/", "/meta/"), KEYS.object(segment_name(1, 1, "ab" * 16)) + "\n",
    ],
)  # fmt: skip
def test_foreign_keys_do_not_parse(key: str) -> None:
    assert parse_key(key) is None


@given(text=st.text(max_size=200))
def test_junk_never_parses_into_something_else(text: str) -> None:
    parsed = parse_key(text)
    assert parsed is None or PartitionKeys(parsed.cluster_id, parsed.pid).object(parsed.name) == text


@pytest.mark.parametrize("cluster", ["", "a/b", "..", "a b", "x" * 65, "é"])
def test_cluster_ids_that_are_no_key_part_are_refused(cluster: str) -> None:
    with pytest.raises(Invalid, match="cluster id"):
        data_prefix(cluster)


def test_partitions_spread_over_the_key_space() -> None:
    seen = {
        PartitionKeys(CLUSTER, PartitionId(UUID(int=topic * 0x9E3779B97F4A7C15 << 40 & 2**128 - 1), part)).prefix.split("/")[2]
        for topic in range(40)
        for part in range(40)
    }
    assert len(seen) > 250
    assert PID.partition == 0
