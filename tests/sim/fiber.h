/* Fibers: a job's blocking work runs on a stack of its own and gives way at each disk operation,
 * so that the operations of several jobs interleave and crashes fall between any two of them,
 * all in one thread. */
#pragma once

#include <stdbool.h>

struct fiber;

struct fiber *fiber_new(void (*fn)(void *arg), void *arg);
/* Runs until the fiber yields or ends; true where it has ended. */
bool fiber_resume(struct fiber *fiber);
/* From inside the fiber: back to who resumed it. */
void fiber_yield(struct fiber *fiber);
/* Only once it has ended. */
void fiber_free(struct fiber *fiber);
