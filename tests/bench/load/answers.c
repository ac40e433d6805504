#include "answers.h"

enum { PRODUCE = 0, FETCH = 1, METADATA = 3, OFFSET_COMMIT = 8, HEARTBEAT = 12 };
enum { UUID_BYTES = 16, BATCH_LENGTH_AT = 8, BATCH_HEAD_BYTES = 12, LAST_DELTA_AT = 23, BATCH_BYTES_MIN = 61, STAMP_BYTES = 8 };

typedef struct {
    const uint8_t *at, *end;
    int is_torn; /* something was asked for that is not there: all later reads are 0 */
} Cursor;

static const uint8_t *take(Cursor *c, uint64_t size)
{
    if (c->is_torn || size > (uint64_t)(c->end - c->at)) {
        c->is_torn = 1;
        return 0;
    }
    const uint8_t *found = c->at;
    c->at += size;
    return found;
}

static int64_t big_endian(const uint8_t *bytes, int size)
{
    uint64_t value = bytes[0] & 0x80 ? UINT64_MAX : 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    return (int64_t)value;
}

static int64_t number(Cursor *c, int size)
{
    const uint8_t *bytes = take(c, (uint64_t)size);
    return bytes ? big_endian(bytes, size) : 0;
}

static uint64_t varint(Cursor *c)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        const uint8_t *byte = take(c, 1);
        if (!byte)
            return 0;
        value |= (uint64_t)(*byte & 0x7F) << shift;
        if (*byte < 0x80)
            return value;
    }
    c->is_torn = 1;
    return 0;
}

/* Length of a compact string, array or bytes; null counts as empty. */
static uint64_t compact(Cursor *c)
{
    uint64_t value = varint(c);
    return value ? value - 1 : 0;
}

static void skip_text(Cursor *c) { take(c, compact(c)); }

static void skip_numbers(Cursor *c, uint64_t size) { take(c, compact(c) * size); }

static void skip_tags(Cursor *c)
{
    for (uint64_t left = varint(c); left && !c->is_torn; left--) {
        varint(c);
        take(c, varint(c));
    }
}

static void error(Cursor *c, Answer *answer)
{
    int code = (int)number(c, 2);
    if (code && !answer->error)
        answer->error = code;
}

/* Whole batches in `size` bytes: the offset after the last one, and the value that the first one ends with. */
static void batches(const uint8_t *at, uint64_t size, Answer *answer)
{
    const uint8_t *end = at + size;
    while (end - at >= BATCH_BYTES_MIN) {
        int64_t length = big_endian(at + BATCH_LENGTH_AT, 4) + BATCH_HEAD_BYTES;
        if (length < BATCH_BYTES_MIN || length > end - at)
            return;
        answer->next_offset = big_endian(at, 8) + big_endian(at + LAST_DELTA_AT, 4) + 1;
        if (!answer->batches++)
            answer->stamp = big_endian(at + length - 1 - STAMP_BYTES, STAMP_BYTES);
        at += length;
    }
}

static void produced(Cursor *c, Answer *answer)
{
    number(c, 4); /* index */
    error(c, answer);
    take(c, 3 * 8); /* base offset, append time, log start */
    for (uint64_t left = compact(c); left && !c->is_torn; left--) {
        number(c, 4);
        skip_text(c);
        skip_tags(c);
    }
    skip_text(c);
    skip_tags(c);
}

static void fetched(Cursor *c, Answer *answer)
{
    number(c, 4); /* index */
    error(c, answer);
    take(c, 3 * 8); /* high watermark, last stable offset, log start */
    for (uint64_t left = compact(c); left && !c->is_torn; left--) {
        take(c, 2 * 8);
        skip_tags(c);
    }
    number(c, 4); /* preferred replica */
    uint64_t size = compact(c);
    const uint8_t *records = take(c, size);
    if (records && size) {
        answer->with_records++;
        batches(records, size, answer);
    }
    skip_tags(c);
}

static void described(Cursor *c, Answer *answer)
{
    error(c, answer);
    take(c, 3 * 4); /* index, leader, epoch */
    for (int list = 0; list < 3; list++)
        skip_numbers(c, 4); /* replicas, in sync, offline */
    skip_tags(c);
}

static void committed(Cursor *c, Answer *answer)
{
    number(c, 4); /* index */
    error(c, answer);
    skip_tags(c);
}

static void each_partition(Cursor *c, Answer *answer, void (*read)(Cursor *, Answer *))
{
    for (uint64_t left = compact(c); left && !c->is_torn; left--) {
        answer->partitions++;
        read(c, answer);
    }
}

static void each_topic(Cursor *c, Answer *answer, void (*read)(Cursor *, Answer *))
{
    for (uint64_t left = compact(c); left && !c->is_torn; left--) {
        skip_text(c);
        each_partition(c, answer, read);
        skip_tags(c);
    }
}

static void metadata(Cursor *c, Answer *answer)
{
    for (uint64_t left = compact(c); left && !c->is_torn; left--) {
        number(c, 4);
        skip_text(c);
        number(c, 4);
        skip_text(c);
        skip_tags(c);
    }
    skip_text(c); /* cluster */
    number(c, 4); /* controller */
    for (uint64_t left = compact(c); left && !c->is_torn; left--) {
        error(c, answer);
        skip_text(c);
        take(c, UUID_BYTES + 1); /* id, is internal */
        each_partition(c, answer, described);
        number(c, 4); /* authorized operations */
        skip_tags(c);
    }
}

int answer_is_known(int api, int version)
{
    switch (api) {
    case PRODUCE: return version == 9;
    case FETCH: case METADATA: return version == 12;
    case OFFSET_COMMIT: return version == 8;
    case HEARTBEAT: return version == 4;
    default: return 0;
    }
}

int answer_read(int api, const uint8_t *bytes, size_t size, Answer *answer)
{
    Cursor cursor = {bytes, bytes + size, 0}, *c = &cursor;
    *answer = (Answer){.next_offset = -1};
    answer->correlation = (int32_t)number(c, 4);
    skip_tags(c);
    if (api != PRODUCE)
        number(c, 4); /* throttled for */
    switch (api) {
    case PRODUCE:
        each_topic(c, answer, produced);
        number(c, 4);
        break;
    case FETCH:
        error(c, answer);
        number(c, 4); /* session */
        each_topic(c, answer, fetched);
        break;
    case METADATA: metadata(c, answer); break;
    case OFFSET_COMMIT: each_topic(c, answer, committed); break;
    case HEARTBEAT: error(c, answer); break;
    default: return 0;
    }
    skip_tags(c);
    return !c->is_torn && c->at == c->end;
}
