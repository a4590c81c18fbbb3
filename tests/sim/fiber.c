/* Fibers by ucontext, with the notes that AddressSanitizer needs at each change of stack. */
#include "tests/sim/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <ucontext.h>

#include "common/assert.h"

#define STACK_BYTES (256u << 10)

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/common_interface_defs.h>
#define SWITCH_BEGIN(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define SWITCH_END(save, bottom, size)   __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define SWITCH_BEGIN(save, bottom, size) ((void)0)
#define SWITCH_END(save, bottom, size)   ((void)0)
#endif

struct fiber {
    ucontext_t own, resumer;
    void (*fn)(void *arg);
    void *arg;
    void *stack;
    void *fake_stack, *resumer_fake_stack; /* AddressSanitizer's */
    const void *resumer_bottom;
    size_t resumer_size;
    bool ended;
};

static void fiber_main(unsigned high, unsigned low);

struct fiber *fiber_new(void (*fn)(void *arg), void *arg)
{
    struct fiber *fiber = calloc(1, sizeof *fiber);
    ASSERT(fiber != NULL);
    fiber->fn = fn;
    fiber->arg = arg;
    fiber->stack = malloc(STACK_BYTES);
    ASSERT(fiber->stack != NULL && getcontext(&fiber->own) == 0);
    fiber->own.uc_stack.ss_sp = fiber->stack;
    fiber->own.uc_stack.ss_size = STACK_BYTES;
    fiber->own.uc_link = NULL;
    uintptr_t self = (uintptr_t)fiber;
    makecontext(&fiber->own, (void (*)(void))fiber_main, 2, (unsigned)(self >> 32), (unsigned)self);
    return fiber;
}

bool fiber_resume(struct fiber *fiber)
{
    ASSERT(!fiber->ended);
    SWITCH_BEGIN(&fiber->resumer_fake_stack, fiber->stack, STACK_BYTES);
    ASSERT(swapcontext(&fiber->resumer, &fiber->own) == 0);
    SWITCH_END(fiber->resumer_fake_stack, NULL, NULL);
    return fiber->ended;
}

void fiber_yield(struct fiber *fiber)
{
    SWITCH_BEGIN(&fiber->fake_stack, fiber->resumer_bottom, fiber->resumer_size);
    ASSERT(swapcontext(&fiber->own, &fiber->resumer) == 0);
    SWITCH_END(fiber->fake_stack, &fiber->resumer_bottom, &fiber->resumer_size);
}

void fiber_free(struct fiber *fiber)
{
    ASSERT(fiber->ended);
    free(fiber->stack);
    free(fiber);
}

/* makecontext passes ints only: the pointer comes in two halves. */
static void fiber_main(unsigned high, unsigned low)
{
    struct fiber *fiber = (struct fiber *)(((uintptr_t)high << 32) | low);
    SWITCH_END(NULL, &fiber->resumer_bottom, &fiber->resumer_size);
    fiber->fn(fiber->arg);
    fiber->ended = true;
    /* NULL: this stack is never entered again. */
    SWITCH_BEGIN(NULL, fiber->resumer_bottom, fiber->resumer_size);
    setcontext(&fiber->resumer);
}
