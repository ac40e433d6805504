/* One pass over the records of a batch without compression: hotlog.wire.record_walk says when, and what stands in where this was not built.
 *
 * Format: https://kafka.apache.org/documentation/#record.  Numbers are zigzag varints of Kafka's widths, 5 bytes and 10.
 *
 * Invariants: no byte outside the buffer is read, whatever the bytes say; what is taken here is what hotlog.wire.patient_records takes,
 * and the other way round (a test holds one against the other); nothing is copied or allocated for a record; the interpreter is let go
 * once the walk has taken some tens of microseconds.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>

enum { HEADER_BYTES = 61, VARINT_BYTES_MAX = 5, VARLONG_BYTES_MAX = 10 };
enum { HEADER_STEPS = 1, RECORD_STEPS = 4, STEPS_HELD_MAX = 4096 * RECORD_STEPS };

typedef struct {
    int64_t oldest, newest; /* ms, of records with a timestamp: INT64_MAX and INT64_MIN where there is none */
    int lacks_key;
    int64_t steps_left;     /* until the interpreter is let go */
    PyThreadState *let_go;  /* NULL as long as it is held */
} Said;

/* The number at *at, which moves behind it; 0 if it is cut off at `end`, or longer than `width` bytes. */
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

/* Skip nullable bytes; *size is negative for null.  0 if they are cut off. */
static inline int part(const uint8_t **at, const uint8_t *end, int64_t *size)
{
    if (!number(at, end, VARINT_BYTES_MAX, size))
        return 0;
    if (*size > 0) {
        if (*size > end - *at)
            return 0;
        *at += *size;
    }
    return 1;
}

/* One record from *at on, which moves behind it; 0 if it is malformed or its offset is not `index` above the first one's. */
static int one(const uint8_t **at, const uint8_t *section_end, int64_t index, int64_t base_timestamp, Said *said)
{
    const uint8_t *p = *at;
    int64_t length, time_delta, offset_delta, size, headers;
    if (!number(&p, section_end, VARINT_BYTES_MAX, &length) || length < 1 || length > section_end - p)
        return 0;
    const uint8_t *end = p + length;
    if (*p++ >= 0x80) /* attributes: a byte that means nothing; above 127 decoders differ on where it ends */
        return 0;
    if (!number(&p, end, VARLONG_BYTES_MAX, &time_delta) || !number(&p, end, VARINT_BYTES_MAX, &offset_delta) || offset_delta != index)
        return 0;
    if (!part(&p, end, &size))
        return 0;
    said->lacks_key |= size < 0;
    if (!part(&p, end, &size) || !number(&p, end, VARINT_BYTES_MAX, &headers) || headers < 0)
        return 0;
    said->steps_left -= RECORD_STEPS + headers * HEADER_STEPS;
    if (said->steps_left < 0 && said->let_go == NULL)
        said->let_go = PyEval_SaveThread();
    for (; headers > 0; headers--)
        if (!part(&p, end, &size) || size < 0 || !part(&p, end, &size))
            return 0;
    if (p != end)
        return 0;
    int64_t time = (int64_t)((uint64_t)base_timestamp + (uint64_t)time_delta); /* wraps, as in Java */
    if (time != -1) {
        if (time < said->oldest)
            said->oldest = time;
        if (time > said->newest)
            said->newest = time;
    }
    *at = end;
    return 1;
}

static int all(const uint8_t *at, const uint8_t *end, int64_t count, int64_t base_timestamp, Said *said)
{
    for (int64_t index = 0; index < count; index++)
        if (!one(&at, end, index, base_timestamp, said))
            return 0;
    return at == end;
}

PyDoc_STRVAR(walk_doc,
"walk(batch, count, base_timestamp, /)\n--\n\n"
"Whether the bytes behind the header are exactly `count` well-formed records, offsets ascending by one: the timestamp of the oldest and of\n"
"the newest record that has one (2**63-1 and -2**63 where none has), and whether a record lacks a key.  None: they are not.");

static PyObject *walk(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    if (given != 3)
        return PyErr_Format(PyExc_TypeError, "walk() takes 3 arguments, %zd are given", given);
    int64_t count = PyLong_AsLongLong(args[1]);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    int64_t base_timestamp = PyLong_AsLongLong(args[2]);
    if (base_timestamp == -1 && PyErr_Occurred())
        return NULL;
    Py_buffer batch;
    if (PyObject_GetBuffer(args[0], &batch, PyBUF_SIMPLE))
        return NULL;
    Said said = {INT64_MAX, INT64_MIN, 0, STEPS_HELD_MAX, NULL};
    int is_sound = 0;
    if (batch.len >= HEADER_BYTES) {
        const uint8_t *bytes = batch.buf;
        is_sound = all(bytes + HEADER_BYTES, bytes + batch.len, count, base_timestamp, &said);
        if (said.let_go != NULL)
            PyEval_RestoreThread(said.let_go);
    }
    PyBuffer_Release(&batch);
    if (!is_sound)
        Py_RETURN_NONE;
    return Py_BuildValue("LLO", (long long)said.oldest, (long long)said.newest, said.lacks_key ? Py_True : Py_False);
}

static PyMethodDef methods[] = {
    {"walk", (PyCFunction)(void (*)(void))walk, METH_FASTCALL, walk_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_walk", "One pass over the records of a batch without compression.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__walk(void)
{
    return PyModuleDef_Init(&definition);
}
