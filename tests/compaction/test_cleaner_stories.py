"""Log compaction through any story of writes, cleanings, waits and restarts: the newest of every key remains."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compaction import cleaner as cleaner_module
from hotlog.wire.key_map import KEY_BYTES
from tests.compaction.cleaning import Scene, Seen, compacted, newest, pairs_of, put
from tests.log.support import T0, TP, new_log, opened
from tests.support.clocks import HandClock
from tests.support.disks import FastDisk

DAY_MS = 86_400_000

_KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f", b"g"])
_PAIR = st.tuples(_KEYS, st.none() | st.binary(max_size=60))
_STEP = st.one_of(
    st.tuples(
        st.just("put"), st.lists(_PAIR, min_size=1, max_size=4), st.sampled_from([0, 0, 1, 3]), st.sampled_from([-1, 5, 6])
    ),
    st.tuples(st.just("clean")),
    st.tuples(st.just("wait"), st.sampled_from([1000, DAY_MS])),
    st.tuples(st.just("restart")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEP, min_size=3, max_size=25), keys_max=st.sampled_from([4, 5, 100]))
def test_any_story_keeps_the_newest_of_every_key(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple], keys_max: int
) -> None:  # type: ignore[type-arg]
    with pytest.MonkeyPatch.context() as patch:
        real = cleaner_module.key_map
        patch.setattr(
            cleaner_module,
            "key_map",
            lambda size, wanted, seed, load: real(keys_max * KEY_BYTES * 2, min(wanted, keys_max), seed, 0.9),
        )
        asyncio.run(tell(tmp_path_factory.mktemp("story"), steps))


async def tell(folder: Path, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    topic, clock, disk = compacted(), HandClock(T0), FastDisk(2)
    written: list[tuple[int, bytes, bytes | None]] = []
    sequences: dict[int, int] = {}
    remaining = iter(steps)
    step: tuple | None = ("begin",)  # type: ignore[type-arg]
    while step is not None:
        async with opened(folder, topic, clock=clock, disk=disk) as logs:
            assert logs.damage == []
            log = logs.get(TP) or await new_log(logs, topic)
            s = Scene(logs, log, clock, disk)
            for step in remaining:
                if step[0] == "put":
                    pairs, codec, producer = step[1:]
                    given_ = (-1, -1, -1)
                    if producer >= 0:
                        given_ = (producer, 0, sequences.get(producer, 0))
                        sequences[producer] = given_[2] + len(pairs)
                    base = put(log, *pairs, codec=codec, producer=given_, now_ms=clock.ms)
                    written += [(base + n, *pair) for n, pair in enumerate(pairs)]
                    await log.flush()
                elif step[0] == "clean":
                    await s.clean()
                    check(written, await s.records(), whole=True)
                elif step[0] == "wait":
                    clock.ms += step[1]
                elif step[0] == "restart":
                    break
                if step[0] != "clean":
                    check(written, await s.records(), whole=False)
            else:
                step = None


def check(written: list[tuple[int, bytes, bytes | None]], found: list[Seen], *, whole: bool) -> None:
    seen = pairs_of(found)
    assert set(seen) <= set(written)
    last = {key: (offset, key, value) for offset, key, value in written}
    latest = newest(found)
    for key, (offset, _, value) in last.items():
        if value is not None:
            assert latest[key].offset == offset
        else:
            assert key not in latest or latest[key].offset == offset, "an older value must not come back"
    if whole:
        assert len(found) == len(latest), "one record a key"
