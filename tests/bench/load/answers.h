/* What an answer of the broker says, as far as a bench must know: was anything refused, and did records come.
 *
 * Versions are those that frames.py makes: Produce 9, Fetch 12, Metadata 12, Heartbeat 4, OffsetCommit 8 (all flexible, response header 1).
 *
 * Invariants: no byte outside the answer is read; an answer that is cut off, or is followed by more bytes, is malformed, never half believed.
 */
#ifndef ANSWERS_H
#define ANSWERS_H
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int32_t correlation;
    int error;             /* the first error code that is not 0 */
    int partitions;        /* how many it speaks of */
    int with_records;      /* of those, how many came with records (Fetch) */
    int batches;           /* whole ones (Fetch) */
    int64_t next_offset;   /* after the last of them; -1: there is none */
    int64_t stamp;         /* the last eight bytes of the value that ends the first of them, where that record has no headers */
} Answer;

int answer_is_known(int api, int version);

/* Read `size` bytes, an answer without its length.  0: malformed. */
int answer_read(int api, const uint8_t *bytes, size_t size, Answer *answer);

#endif
