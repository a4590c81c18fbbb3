/* The real environment of a bucket's core: libuv's clock and pool, the kernel's random numbers,
 * links. */
#pragma once

#include <uv.h>

#include "bucketd/core/env.h"

struct env_posix {
    struct env env; /* first: the core knows only this */
    uv_loop_t *loop;
    /* The outbox of a link by its number, NULL when it is gone. */
    struct buf *(*find_outbox)(void *ctx, uint32_t link);
    void *ctx;
};

/* Fills in env->env. disk and log are borrowed and must outlive it. */
void env_posix_init(struct env_posix *env, uv_loop_t *loop, struct disk *disk,
                    const struct log *log, struct buf *(*find_outbox)(void *ctx, uint32_t link),
                    void *ctx);
