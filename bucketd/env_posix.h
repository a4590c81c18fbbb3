/* The real environment of a bucket's core: libuv's clock and pool, the kernel's random numbers,
 * links. */
#pragma once

#include <uv.h>

#include "bucketd/core/env.h"

/* Brief jobs of one step; more go to the pool. */
#define ENV_FINISHED_MAX 4u

/* Where the core packs messages; either gives NULL where it can't be reached. */
struct env_posix_links {
    void *ctx;
    struct buf *(*outbox)(void *ctx, uint32_t link);
    /* The same bucket's process on another node; NULL where this node is the only replica. */
    struct buf *(*peer)(void *ctx, uint32_t node);
};

struct env_posix {
    struct env env; /* first: the core knows only this */
    uv_loop_t *loop;
    struct env_posix_links links;
    struct job *finished[ENV_FINISHED_MAX]; /* brief jobs whose done is still to come */
    unsigned finished_count;
    uint8_t random[256]; /* the last random_left of them weren't used yet */
    size_t random_left;
};

/* Calls done for the brief jobs that were submitted; true where there were any. Once in each turn,
 * after the core's step. */
bool env_posix_finish(struct env_posix *env);

/* Fills in env->env. disk and log are borrowed and must outlive it; links is copied. */
void env_posix_init(struct env_posix *env, uv_loop_t *loop, struct disk *disk,
                    const struct log *log, const struct env_posix_links *links);
