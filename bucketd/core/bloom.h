/* A blocked bloom filter: each key has BLOOM_PROBES bits in one 64-byte line, so that a lookup
 * costs one cache miss. At 10 bits per key about one absent key in 80 seems present. Pure functions
 * over memory of the caller. */
#pragma once

#include "common/bytes.h"

#define BLOOM_LINE_BYTES   64u
#define BLOOM_BITS_PER_KEY 10u

/* How many lines a filter of so many keys has; at least one. */
uint64_t bloom_lines(uint64_t keys);
/* The line of a 64-bit hash. */
uint64_t bloom_line(uint64_t lines, uint64_t hash);
/* `line`: the BLOOM_LINE_BYTES of the hash's line. */
void bloom_set(uint8_t *line, uint64_t hash);
/* False: the key was never set. */
bool bloom_has(const uint8_t *line, uint64_t hash);
