/* Virtual time: a heap of events. Events of the same time come in the order they were made. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define US     ((uint64_t)1000)
#define MS     ((uint64_t)1000000)
#define SECOND ((uint64_t)1000000000)

struct sched_event {
    uint64_t time_ns, order;
    void (*fn)(void *ctx, uint64_t arg);
    void *ctx;
    uint64_t arg;
};

struct sched {
    uint64_t now_ns;
    uint64_t next_order;
    struct sched_event *heap;
    size_t count, cap;
};

/* fn(ctx, arg) is called when virtual time is now + delay_ns. An event can't be taken back: what
 * may become void carries a generation in arg. */
void sched_after(struct sched *sched, uint64_t delay_ns, void (*fn)(void *ctx, uint64_t arg),
                 void *ctx, uint64_t arg);
/* Moves time to the next event and runs it; false where there is none. */
bool sched_step(struct sched *sched);
void sched_release(struct sched *sched);
