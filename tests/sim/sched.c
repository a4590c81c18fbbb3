/* A binary heap by (time, order). */
#include "tests/sim/sched.h"

#include <stdlib.h>

#include "common/assert.h"

static bool before(const struct sched_event *a, const struct sched_event *b);

void sched_after(struct sched *sched, uint64_t delay_ns, void (*fn)(void *ctx, uint64_t arg),
                 void *ctx, uint64_t arg)
{
    if (sched->count == sched->cap) {
        sched->cap = sched->cap == 0 ? 64 : sched->cap * 2;
        sched->heap = realloc(sched->heap, sched->cap * sizeof *sched->heap);
        ASSERT(sched->heap != NULL);
    }
    struct sched_event event = {.time_ns = sched->now_ns + delay_ns,
                                .order = sched->next_order++,
                                .fn = fn,
                                .ctx = ctx,
                                .arg = arg};
    size_t at = sched->count++;
    for (; at > 0 && before(&event, &sched->heap[(at - 1) / 2]); at = (at - 1) / 2)
        sched->heap[at] = sched->heap[(at - 1) / 2];
    sched->heap[at] = event;
}

bool sched_step(struct sched *sched)
{
    if (sched->count == 0)
        return false;
    struct sched_event first = sched->heap[0];
    struct sched_event last = sched->heap[--sched->count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= sched->count)
            break;
        if (child + 1 < sched->count && before(&sched->heap[child + 1], &sched->heap[child]))
            child++;
        if (!before(&sched->heap[child], &last))
            break;
        sched->heap[at] = sched->heap[child];
        at = child;
    }
    sched->heap[at] = last;
    sched->now_ns = first.time_ns;
    first.fn(first.ctx, first.arg);
    return true;
}

void sched_release(struct sched *sched)
{
    free(sched->heap);
    *sched = (struct sched){0};
}

static bool before(const struct sched_event *a, const struct sched_event *b)
{
    return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->order < b->order;
}
