#include "histogram.h"

/* Below 128 a bucket a value; from there on the seven bits after the leading one say which of its power's buckets. */
static unsigned bucket_of(uint64_t value)
{
    if (value < (1u << BUCKET_BITS))
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - BUCKET_BITS;
    return (shift << BUCKET_BITS) + (unsigned)(value >> shift);
}

static uint64_t bucket_end(unsigned bucket)
{
    if (bucket < (1u << BUCKET_BITS))
        return bucket;
    unsigned shift = (bucket >> BUCKET_BITS) - 1;
    uint64_t first = (uint64_t)(bucket - (shift << BUCKET_BITS)) << shift;
    return first + (((uint64_t)1 << shift) - 1);
}

void histogram_add(Histogram *h, uint64_t value)
{
    h->counts[bucket_of(value)]++;
    h->total++;
    if (value > h->greatest)
        h->greatest = value;
}

uint64_t histogram_at(const Histogram *h, double share)
{
    if (h->total == 0)
        return 0;
    uint64_t wanted = (uint64_t)(share * (double)h->total + 0.5), seen = 0;
    if (wanted < 1)
        wanted = 1;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += h->counts[bucket];
        if (seen >= wanted) {
            uint64_t end = bucket_end(bucket);
            return end < h->greatest ? end : h->greatest;
        }
    }
    return h->greatest;
}
