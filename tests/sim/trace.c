/* The trace of a run: hash, lines, first failure. */
#include "tests/sim/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <xxhash.h>

void trace_mix(struct trace *trace, uint64_t value)
{
    uint64_t mixed = (trace->hash ^ value) * 0x9fb21c651e98df25ull;
    trace->hash = mixed ^ (mixed >> 29);
    trace->steps++;
}

void trace_mix_bytes(struct trace *trace, const void *bytes, size_t len)
{
    trace_mix(trace, XXH3_64bits(bytes, len));
}

void trace_line(struct trace *trace, const char *format, ...)
{
    if (!trace->print)
        return;
    va_list args;
    printf("%12.3f us step %8lu  ", (double)*trace->now_ns / 1e3, trace->steps);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

void trace_fail(struct trace *trace, const char *format, ...)
{
    if (trace->failed)
        return;
    trace->failed = true;
    int at = snprintf(trace->failure, sizeof trace->failure, "step %lu, t=%.3f ms: ", trace->steps,
                      (double)*trace->now_ns / 1e6);
    va_list args;
    va_start(args, format);
    vsnprintf(trace->failure + at, sizeof trace->failure - (size_t)at, format, args);
    va_end(args);
    trace_line(trace, "VIOLATION %s", trace->failure);
}
