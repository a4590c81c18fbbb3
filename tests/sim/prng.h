/* Random numbers of a simulation: splitmix64. Each part of the world has a generator of its own,
 * forked from the seed's, so that one part drawing more numbers doesn't change what another part
 * does. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct prng {
    uint64_t state;
};

static inline uint64_t prng_next(struct prng *prng)
{
    uint64_t z = (prng->state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline struct prng prng_fork(struct prng *prng)
{
    return (struct prng){.state = prng_next(prng)};
}

/* 0 <= result < n; n > 0. The bias of the modulo doesn't matter here. */
static inline uint64_t prng_below(struct prng *prng, uint64_t n)
{
    return prng_next(prng) % n;
}

/* low <= result <= high. */
static inline uint64_t prng_range(struct prng *prng, uint64_t low, uint64_t high)
{
    return low + prng_below(prng, high - low + 1);
}

static inline bool prng_chance(struct prng *prng, uint64_t in_a_million)
{
    return prng_below(prng, 1000000) < in_a_million;
}

static inline void prng_fill(struct prng *prng, void *to, size_t len)
{
    for (size_t at = 0; at < len; at += sizeof(uint64_t)) {
        uint64_t word = prng_next(prng);
        memcpy((uint8_t *)to + at, &word, len - at < sizeof word ? len - at : sizeof word);
    }
}
