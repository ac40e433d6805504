/* The newest offset of every key of a log, and what of a run of batches remains once older records of a key are dropped: hotlog.wire.key_map
 * says what for, and what stands in where this was not built.
 *
 * The table is the caller's memory: slots of 24 bytes, which are a SipHash-2-4 of 128 bits of a key and its newest offset plus one; 0 is a
 * free slot.  The seed is drawn anew for every table, so nobody can make keys that collide.
 * Batches: https://kafka.apache.org/documentation/#recordbatch; the delete horizon is KIP-534's.
 *
 * Invariants: no byte outside the buffers is read or written, whatever the bytes say; a record that stays is copied as it is but for its
 * timestamp's difference, where the batch's base timestamp becomes a delete horizon; the interpreter is let go once a run has taken some
 * tens of microseconds.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { HEADER_BYTES = 61, OVERHEAD_BYTES = 12, VARINT_BYTES_MAX = 5, VARLONG_BYTES_MAX = 10 };
enum { AT_LENGTH = 8, AT_MAGIC = 16, AT_CRC = 17, AT_ATTRIBUTES = 21, AT_LAST_DELTA = 23, AT_BASE_TIME = 27, AT_MAX_TIME = 35, AT_PRODUCER = 43, AT_COUNT = 57 };
enum { CODEC = 0x07, APPEND_TIME = 0x08, TRANSACTIONAL = 0x10, CONTROL = 0x20, HORIZON = 0x40 };
enum { END = 0, OPEN = 1, FULL = 2, BAD = 3, EMPTY = 4, ROOM = 5 };
enum { FORCED = 1, UNCHECKED = 2 };
enum { GROWTH_MAX = 13, SLOT_WORDS = 3, STEPS_HELD_MAX = 512 };

static inline uint64_t big(const uint8_t *p, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | p[i];
    return value;
}

static inline void put(uint8_t *p, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8)
        p[i] = (uint8_t)value;
}

/* CRC-32C */

static uint32_t crc_table[8][256];

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
        crc_table[0][i] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int i = 0; i < 256; i++)
            crc_table[slice][i] = crc_table[slice - 1][i] >> 8 ^ crc_table[0][crc_table[slice - 1][i] & 0xFF];
}

static uint32_t crc_by_table(const uint8_t *p, int64_t size)
{
    uint32_t crc = ~0u;
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = crc_table[7][low & 0xFF] ^ crc_table[6][low >> 8 & 0xFF] ^ crc_table[5][low >> 16 & 0xFF] ^ crc_table[4][low >> 24]
            ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^ crc_table[1][p[6]] ^ crc_table[0][p[7]];
    }
    for (; size > 0; p++, size--)
        crc = crc >> 8 ^ crc_table[0][(crc ^ *p) & 0xFF];
    return ~crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("sse4.2"))) static uint32_t crc_by_processor(const uint8_t *p, int64_t size)
{
    uint64_t crc = ~0u;
    for (; size >= 8; p += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    for (; size > 0; p++, size--)
        crc = __builtin_ia32_crc32qi((uint32_t)crc, *p);
    return ~(uint32_t)crc;
}
#define CRC_BY_PROCESSOR __builtin_cpu_supports("sse4.2")
#else
#define crc_by_processor crc_by_table
#define CRC_BY_PROCESSOR 0
#endif

static uint32_t (*crc_of)(const uint8_t *, int64_t) = crc_by_table;

/* SipHash-2-4, 128 bits: https://www.aumasson.jp/siphash/siphash.pdf */

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1]; v[1] = ROTATE(v[1], 13) ^ v[0]; v[0] = ROTATE(v[0], 32);
    v[2] += v[3]; v[3] = ROTATE(v[3], 16) ^ v[2];
    v[0] += v[3]; v[3] = ROTATE(v[3], 21) ^ v[0];
    v[2] += v[1]; v[1] = ROTATE(v[1], 17) ^ v[2]; v[2] = ROTATE(v[2], 32);
}

static void sip_hash(const uint64_t seed[2], const uint8_t *p, int64_t size, uint64_t hash[2])
{
    uint64_t v[4] = {seed[0] ^ 0x736f6d6570736575u, seed[1] ^ 0x646f72616e646f6du ^ 0xee, seed[0] ^ 0x6c7967656e657261u, seed[1] ^ 0x7465646279746573u};
    uint64_t word, last = (uint64_t)size << 56;
    for (; size >= 8; p += 8, size -= 8) {
        memcpy(&word, p, 8);
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
    }
    for (int64_t i = 0; i < size; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    sip_round(v);
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xee;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    hash[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    hash[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The table */

typedef struct {
    uint64_t *slots;
    uint64_t slot_count;
    int64_t used, used_max; /* never all slots: a search ends at a free one */
    uint64_t seed[2];
} Table;

/* The slot of a key: its own, or the free one where it would be. */
static uint64_t *slot_of(const Table *table, const uint8_t *key, int64_t size, uint64_t hash[2])
{
    sip_hash(table->seed, key, size, hash);
    uint64_t at = hash[0] % table->slot_count;
    for (;;) {
        uint64_t *slot = table->slots + at * SLOT_WORDS;
        if (slot[2] == 0 || (slot[0] == hash[0] && slot[1] == hash[1]))
            return slot;
        at = at + 1 == table->slot_count ? 0 : at + 1;
    }
}

/* Records */

typedef struct {
    const uint8_t *start, *end; /* of all of it */
    const uint8_t *attributes;  /* a byte, and then the timestamp's difference */
    const uint8_t *rest;        /* behind that: the offset's difference and all that follows */
    int64_t time_delta, offset_delta;
    const uint8_t *key;
    int64_t key_bytes; /* negative for none */
    int has_value;
} Record;

static inline int number(const uint8_t **at, const uint8_t *end, int width, int64_t *value)
{
    uint64_t raw = 0;
    const uint8_t *p = *at;
    for (int i = 0; i < width && p < end; i++) {
        uint8_t byte = *p++;
        raw |= (uint64_t)(byte & 0x7F) << (7 * i);
        if (byte < 0x80) {
            *at = p;
            *value = (int64_t)((raw >> 1) ^ (0 - (raw & 1)));
            return 1;
        }
    }
    return 0;
}

static inline uint8_t *put_number(uint8_t *p, int64_t value)
{
    uint64_t raw = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    for (; raw >= 0x80; raw >>= 7)
        *p++ = (uint8_t)(raw | 0x80);
    *p++ = (uint8_t)raw;
    return p;
}

static inline int number_bytes(int64_t value)
{
    uint64_t raw = ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
    int bytes = 1;
    for (; raw >= 0x80; raw >>= 7)
        bytes++;
    return bytes;
}

/* The record at *at, which moves behind it; 0 if it is malformed. */
static inline int record_at(const uint8_t **at, const uint8_t *section_end, Record *record)
{
    const uint8_t *p = *at;
    int64_t length, size;
    record->start = p;
    if (!number(&p, section_end, VARINT_BYTES_MAX, &length) || length < 1 || length > section_end - p)
        return 0;
    const uint8_t *end = record->end = p + length;
    record->attributes = p++;
    if (!number(&p, end, VARLONG_BYTES_MAX, &record->time_delta))
        return 0;
    record->rest = p;
    if (!number(&p, end, VARINT_BYTES_MAX, &record->offset_delta) || !number(&p, end, VARINT_BYTES_MAX, &record->key_bytes))
        return 0;
    record->key = p;
    if (record->key_bytes > 0) {
        if (record->key_bytes > end - p)
            return 0;
        p += record->key_bytes;
    }
    if (!number(&p, end, VARINT_BYTES_MAX, &size) || size > end - p)
        return 0;
    record->has_value = size >= 0;
    *at = end;
    return 1;
}

/* Batches */

typedef struct {
    const uint8_t *bytes, *end;
    int64_t base_offset, last_offset, base_time, producer_id, count;
    unsigned attributes;
} Batch;

/* The batch at `p`: END if it is cut off, OPEN if it is not for us to look into, BAD, or -1 if it is at hand. */
static int batch_at(const uint8_t *p, const uint8_t *end, int flags, Batch *batch)
{
    if (end - p < HEADER_BYTES)
        return END;
    int64_t length = (int32_t)big(p + AT_LENGTH, 4);
    if (length < HEADER_BYTES - OVERHEAD_BYTES || p[AT_MAGIC] != 2)
        return BAD;
    if (length + OVERHEAD_BYTES > end - p)
        return END;
    batch->bytes = p;
    batch->end = p + length + OVERHEAD_BYTES;
    batch->attributes = (unsigned)big(p + AT_ATTRIBUTES, 2);
    batch->base_offset = (int64_t)big(p, 8);
    batch->last_offset = (int64_t)((uint64_t)batch->base_offset + (uint64_t)(int32_t)big(p + AT_LAST_DELTA, 4));
    batch->base_time = (int64_t)big(p + AT_BASE_TIME, 8);
    batch->producer_id = (int64_t)big(p + AT_PRODUCER, 8);
    batch->count = (int32_t)big(p + AT_COUNT, 4);
    if (batch->count < 0 || batch->base_offset < 0 || batch->last_offset < batch->base_offset || batch->last_offset == INT64_MAX)
        return BAD;
    if (!(flags & UNCHECKED) && (uint32_t)big(p + AT_CRC, 4) != crc_of(p + AT_ATTRIBUTES, batch->end - p - AT_ATTRIBUTES))
        return BAD;
    if (batch->attributes & (CODEC | CONTROL) || (batch->attributes & TRANSACTIONAL && !(flags & FORCED)))
        return OPEN;
    return -1;
}

/* Note the keys of one batch; -1, FULL or BAD. */
static int note_batch(Table *table, const Batch *batch, int64_t from_offset)
{
    const uint8_t *at = batch->bytes + HEADER_BYTES;
    int64_t before = -1, span = batch->last_offset - batch->base_offset;
    Record record;
    uint64_t hash[2];
    for (int64_t index = 0; index < batch->count; index++) {
        if (!record_at(&at, batch->end, &record) || record.offset_delta <= before || record.offset_delta > span)
            return BAD;
        before = record.offset_delta;
        int64_t offset = batch->base_offset + record.offset_delta;
        if (record.key_bytes < 0 || offset < from_offset)
            continue;
        uint64_t *slot = slot_of(table, record.key, record.key_bytes, hash);
        if (slot[2] == 0) {
            if (table->used >= table->used_max)
                return FULL;
            table->used++;
            slot[0] = hash[0];
            slot[1] = hash[1];
        }
        if ((uint64_t)offset + 1 > slot[2])
            slot[2] = (uint64_t)offset + 1;
    }
    return at == batch->end ? -1 : BAD;
}

typedef struct {
    int64_t latest;     /* up to this offset the table knows every key */
    int64_t now_ms;     /* tombstones whose horizon it has reached go */
    int64_t horizon_ms; /* of tombstones that have none yet */
    int64_t upper;      /* the batch that ends here stays, empty if need be */
    int64_t seen, kept; /* records */
    int64_t changed;    /* batches that were dropped or written anew */
    int64_t end;        /* behind the last batch written, -1 for none */
    uint8_t *out, *out_end;
} Sift;

/* Write what remains of one batch; -1, BAD, ROOM, or EMPTY if nothing does and that is not for us to decide. */
static int sift_batch(const Table *table, const Batch *batch, Sift *sift)
{
    const uint8_t *section = batch->bytes + HEADER_BYTES, *at = section;
    int has_horizon = (batch->attributes & HORIZON) != 0;
    int is_expired = has_horizon && sift->now_ms >= batch->base_time;
    int64_t before = -1, span = batch->last_offset - batch->base_offset, kept = 0, tombstones = 0, newest = -1;
    if (sift->out_end - sift->out < batch->end - batch->bytes + GROWTH_MAX * batch->count)
        return ROOM;
    uint8_t *out = sift->out + HEADER_BYTES;
    Record record;
    uint64_t hash[2];
    for (int64_t index = 0; index < batch->count; index++) {
        if (!record_at(&at, batch->end, &record) || record.offset_delta <= before || record.offset_delta > span)
            return BAD;
        before = record.offset_delta;
        int64_t offset = batch->base_offset + record.offset_delta;
        if (offset <= sift->latest) {
            if (record.key_bytes < 0)
                continue;
            if ((uint64_t)offset + 1 < slot_of(table, record.key, record.key_bytes, hash)[2] || (!record.has_value && is_expired))
                continue;
        }
        kept++;
        tombstones += !record.has_value;
        int64_t time = (int64_t)((uint64_t)batch->base_time + (uint64_t)record.time_delta);
        if (time > newest)
            newest = time;
        memcpy(out, record.start, (size_t)(record.end - record.start));
        out += record.end - record.start;
    }
    if (at != batch->end)
        return BAD;
    int becomes_marked = tombstones > 0 && !has_horizon;
    if (kept == 0 && (batch->count == 0 || batch->producer_id >= 0 || batch->last_offset + 1 == sift->upper))
        return EMPTY;
    sift->seen += batch->count;
    sift->kept += kept;
    if (kept == 0) {
        sift->changed++;
        return -1;
    }
    sift->end = batch->last_offset + 1;
    if (kept == batch->count && !becomes_marked) {
        memcpy(sift->out, batch->bytes, (size_t)(batch->end - batch->bytes));
        sift->out += batch->end - batch->bytes;
        return -1;
    }
    sift->changed++;
    uint8_t *head = sift->out;
    memcpy(head, batch->bytes, HEADER_BYTES);
    if (becomes_marked) { /* the base timestamp is the horizon from now on, so every record's difference changes */
        uint64_t shift = (uint64_t)batch->base_time - (uint64_t)sift->horizon_ms;
        out = head + HEADER_BYTES;
        at = section;
        for (int64_t index = 0; index < batch->count; index++) {
            record_at(&at, batch->end, &record);
            int64_t offset = batch->base_offset + record.offset_delta;
            if (offset <= sift->latest
                && (record.key_bytes < 0 || (uint64_t)offset + 1 < slot_of(table, record.key, record.key_bytes, hash)[2]))
                continue;
            int64_t delta = (int64_t)((uint64_t)record.time_delta + shift);
            out = put_number(out, 1 + number_bytes(delta) + (record.end - record.rest));
            *out++ = *record.attributes;
            out = put_number(out, delta);
            memcpy(out, record.rest, (size_t)(record.end - record.rest));
            out += record.end - record.rest;
        }
        put(head + AT_ATTRIBUTES, batch->attributes | HORIZON, 2);
        put(head + AT_BASE_TIME, (uint64_t)sift->horizon_ms, 8);
    }
    put(head + AT_LENGTH, (uint64_t)(out - head - OVERHEAD_BYTES), 4);
    put(head + AT_COUNT, (uint64_t)kept, 4);
    if (!(batch->attributes & APPEND_TIME))
        put(head + AT_MAX_TIME, (uint64_t)newest, 8);
    put(head + AT_CRC, crc_of(head + AT_ATTRIBUTES, out - head - AT_ATTRIBUTES), 4);
    sift->out = out;
    return -1;
}

/* What Python calls */

static int table_of(Py_buffer *memory, Py_buffer *seed, Table *table)
{
    table->slots = memory->buf;
    table->slot_count = (uint64_t)memory->len / (SLOT_WORDS * sizeof(uint64_t));
    if (seed->len != sizeof table->seed || table->slot_count == 0 || (uintptr_t)memory->buf % sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "a table has slots of 24 bytes, aligned, and a seed of 16");
        return 0;
    }
    memcpy(table->seed, seed->buf, sizeof table->seed);
    return 1;
}

PyDoc_STRVAR(note_doc,
"note(table, used, used_max, seed, batches, from_offset, latest, flags, /)\n--\n\n"
"Note the keys of whole batches at and above `from_offset`: (byte behind the last noted, used slots, offset of the last noted, why it ended).");

static PyObject *note(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory, seed, data;
    Table table;
    long long used, used_max, from_offset, latest;
    int flags, why = BAD;
    if (!PyArg_ParseTuple(args, "w*LLy*y*LLi", &memory, &used, &used_max, &seed, &data, &from_offset, &latest, &flags))
        return NULL;
    PyObject *result = NULL;
    if (table_of(&memory, &seed, &table)) {
        table.used = used;
        table.used_max = used_max < (long long)table.slot_count ? used_max : (long long)table.slot_count - 1;
        const uint8_t *start = data.buf, *at = start, *end = start + data.len;
        int64_t steps_left = STEPS_HELD_MAX;
        PyThreadState *let_go = NULL;
        Batch batch;
        for (;;) {
            why = batch_at(at, end, flags, &batch);
            if (why >= 0)
                break;
            steps_left -= batch.count + 4;
            if (steps_left < 0 && let_go == NULL)
                let_go = PyEval_SaveThread();
            if (batch.last_offset >= from_offset) {
                why = note_batch(&table, &batch, from_offset);
                if (why >= 0)
                    break;
                latest = batch.last_offset;
            }
            at = batch.end;
        }
        if (let_go != NULL)
            PyEval_RestoreThread(let_go);
        result = Py_BuildValue("nLLi", (Py_ssize_t)(at - start), (long long)table.used, latest, why);
    }
    PyBuffer_Release(&memory);
    PyBuffer_Release(&seed);
    PyBuffer_Release(&data);
    return result;
}

PyDoc_STRVAR(sift_doc,
"sift(table, seed, batches, out, latest, now_ms, horizon_ms, upper, flags, /)\n--\n\n"
"Write what remains of whole batches to `out`: (byte behind the last one looked at, bytes written, why it ended, records seen, records\n"
"kept, batches changed, byte of the last one looked at or -1, offset behind the last one written or -1).");

static PyObject *sift(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory, seed, data, out;
    Table table;
    long long latest, now_ms, horizon_ms, upper;
    int flags, why = BAD;
    if (!PyArg_ParseTuple(args, "w*y*y*w*LLLLi", &memory, &seed, &data, &out, &latest, &now_ms, &horizon_ms, &upper, &flags))
        return NULL;
    PyObject *result = NULL;
    if (table_of(&memory, &seed, &table)) {
        const uint8_t *start = data.buf, *at = start, *end = start + data.len;
        uint8_t *out_start = out.buf;
        Py_ssize_t last = -1;
        Sift state = {latest, now_ms, horizon_ms, upper, 0, 0, 0, -1, out_start, out_start + out.len};
        int64_t steps_left = STEPS_HELD_MAX;
        PyThreadState *let_go = NULL;
        Batch batch;
        for (;;) {
            why = batch_at(at, end, flags, &batch);
            if (why >= 0)
                break;
            steps_left -= batch.count + 4;
            if (steps_left < 0 && let_go == NULL)
                let_go = PyEval_SaveThread();
            why = sift_batch(&table, &batch, &state);
            if (why >= 0)
                break;
            last = at - start;
            at = batch.end;
        }
        if (let_go != NULL)
            PyEval_RestoreThread(let_go);
        result = Py_BuildValue("nniLLLnL", (Py_ssize_t)(at - start), (Py_ssize_t)(state.out - out_start), why, (long long)state.seen,
                               (long long)state.kept, (long long)state.changed, last, (long long)state.end);
    }
    PyBuffer_Release(&memory);
    PyBuffer_Release(&seed);
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"note", note, METH_VARARGS, note_doc},
    {"sift", sift, METH_VARARGS, sift_doc},
    {NULL, NULL, 0, NULL},
};

static int begin(PyObject *Py_UNUSED(module))
{
    make_crc_table();
    if (CRC_BY_PROCESSOR)
        crc_of = crc_by_processor;
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)begin}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_keys", "The newest offset of every key, and what of a log remains.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__keys(void)
{
    return PyModuleDef_Init(&definition);
}
