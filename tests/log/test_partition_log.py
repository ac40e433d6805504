"""Append, roll, read, reopen: the main story of one log."""

from __future__ import annotations

from pathlib import Path

from tests.log.support import TP, append, batch, config, new_log, opened, read_all


async def test_what_was_appended_is_read_again_after_a_clean_stop(tmp_path: Path) -> None:
    topic = config(segment_bytes=2048)
    async with opened(tmp_path, topic) as logs:
        log = await new_log(logs, topic)
        for index in range(50):
            done = append(log, batch(b"%03d" % index * 20))
            assert done.base_offset == index and done.end_offset == index + 1
        await log.wait_durable(50)
        assert log.high_watermark == 50
        assert len(log.segments()) > 3
        first = await read_all(log)
    async with opened(tmp_path, topic) as logs:
        log = logs.get(TP)
        assert log is not None
        assert (log.log_end_offset, log.high_watermark, log.local_log_start_offset) == (50, 50, 0)
        assert await read_all(log) == first
        assert [header.base_offset for header in first] == list(range(50))
        append(log, batch(b"more"))
        await log.wait_durable(51)
        assert (await read_all(log, 49))[-1].base_offset == 50
        assert logs.damage == []
