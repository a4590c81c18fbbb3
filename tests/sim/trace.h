/* What happened in a run: a hash over everything (same seed, same hash), readable lines where
 * wanted, and the first violation that the checker found. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trace {
    uint64_t hash;
    uint64_t steps;         /* events mixed into the hash */
    const uint64_t *now_ns; /* virtual time, for the lines */
    bool print;
    bool failed;
    char failure[512];
};

void trace_mix(struct trace *trace, uint64_t value);
void trace_mix_bytes(struct trace *trace, const void *bytes, size_t len);
/* A line on stdout where trace->print is set. */
void trace_line(struct trace *trace, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The run failed; only the first failure is kept, as the others follow from it. */
void trace_fail(struct trace *trace, const char *format, ...) __attribute__((format(printf, 2, 3)));
