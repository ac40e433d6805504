/* Counts of latencies in buckets that grow with them: 128 to each power of two, so that what is read from it is at most 1 % above.
 *
 * Invariants: recording is a few instructions and never allocates; a percentile is the upper end of its bucket, but never above the greatest.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H
#include <stdint.h>

enum { BUCKET_BITS = 7, BUCKETS = (64 - BUCKET_BITS + 1) << BUCKET_BITS };

typedef struct {
    uint64_t counts[BUCKETS];
    uint64_t total, greatest;
} Histogram;

void histogram_add(Histogram *h, uint64_t value);

/* The value that `share` of all do not pass; 0 where there is none. */
uint64_t histogram_at(const Histogram *h, double share);

#endif
