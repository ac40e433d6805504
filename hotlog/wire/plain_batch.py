"""One look at a batch of the kind that small producers send: one batch without compression, sound, with timestamps that its topic takes.

Invariants: what passes here passes hotlog.wire.batch.check_produced and hotlog.wire.inspect.inspect, which would hand its header back as it is (a
property test holds them together); what does not pass says nothing: they say what is wrong, if something is; nothing is changed.
"""

from __future__ import annotations

from crc32c import crc32c

from hotlog.kernel.limits import BATCH_HEADER_BYTES, BATCH_OVERHEAD_BYTES, MiB
from hotlog.wire.batch import ATTRIBUTES_OFFSET, HEADER
from hotlog.wire.inspect import INLINE, NO_TIMESTAMP, Rules
from hotlog.wire.record_walk import walk

BYTES_MAX = 1 * MiB  # checked and walked on the event loop
RECORDS_MAX = INLINE.records
Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
"""Those of a BatchHeader, in its order."""


def sound(batch: memoryview, bytes_max: int, rules: Rules, now_ms: int) -> Fields | None:
    """The fields of its header, if `batch` is one whole batch of that kind, of at most `bytes_max` bytes."""
    size = len(batch)
    if size <= BATCH_HEADER_BYTES or size > bytes_max or size > BYTES_MAX:
        return None
    fields: Fields = HEADER.unpack_from(batch)
    base_offset, length, _, magic, crc, attributes, delta, first_time, largest, producer, epoch, sequence, count = fields
    if length + BATCH_OVERHEAD_BYTES != size or magic != 2 or attributes or base_offset or not 0 < count <= RECORDS_MAX:
        return None
    if delta + 1 != count or (producer >= 0 and (epoch < 0 or sequence < 0)) or crc != crc32c(batch[ATTRIBUTES_OFFSET:]):
        return None
    said = walk(batch, count, first_time)
    if said is None or rules.is_log_append_time:
        return None
    oldest, newest, lacks_key = said
    if (newest if newest > NO_TIMESTAMP else NO_TIMESTAMP) != largest or (lacks_key and rules.is_compacted):
        return None
    if newest > now_ms + rules.timestamp_after_max_ms or oldest < now_ms - rules.timestamp_before_max_ms:
        return None
    return fields
