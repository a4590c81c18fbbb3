/* The real environment of a bucket's core: libuv's clock and pool, the kernel's random numbers,
 * links. */
#pragma once

#include <uv.h>

#include "bucketd/core/env.h"

/* Brief jobs of one step; more go to the pool. */
#define ENV_FINISHED_MAX 4u

struct env_posix {
    struct env env; /* first: the core knows only this */
    uv_loop_t *loop;
    /* The outbox of a link by its number, NULL when it is gone. */
    struct buf *(*find_outbox)(void *ctx, uint32_t link);
    void *ctx;
    struct job *finished[ENV_FINISHED_MAX]; /* brief jobs whose done is still to come */
    unsigned finished_count;
};

/* Calls done for the brief jobs that were submitted; true where there were any. Once in each turn,
 * after the core's step. */
bool env_posix_finish(struct env_posix *env);

/* Fills in env->env. disk and log are borrowed and must outlive it. */
void env_posix_init(struct env_posix *env, uv_loop_t *loop, struct disk *disk,
                    const struct log *log, struct buf *(*find_outbox)(void *ctx, uint32_t link),
                    void *ctx);
