/* What the load generator is asked to do: its options, its frames, and how it says that it cannot.
 *
 * Invariants: a plan that was read is whole: every frame is one, of one API whose answers can be checked.
 */
#ifndef PLAN_H
#define PLAN_H
#include <stddef.h>
#include <stdint.h>

enum { OURS = 2, BROKERS = 3 }; /* exit codes: whose fault it is */
enum { API_AT = 4, VERSION_AT = 6, CORRELATION_AT = 8, FRAME_BYTES_MIN = 14 };

typedef struct {
    uint8_t *bytes;
    size_t size;
} Frame;

typedef struct {
    unsigned port, connections, in_flight, warm_ms, measure_ms, own, answers, rate, follow;
    int partitions, records, api; /* partitions, records: -1 where any number will do */
    Frame *frames;
    unsigned frame_count;
} Plan;

/* Ends the program where the words, or the file that they name, will not do. */
Plan plan_of(int count, char **words);

void fail(int code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
void *room_for(size_t count, size_t size);
uint32_t word_at(const uint8_t *bytes);

#endif
