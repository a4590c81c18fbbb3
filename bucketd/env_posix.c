/* struct env over libuv: jobs go to its thread pool and come back as events of the loop. */
#include "bucketd/env_posix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "bucketd/disk_posix.h"
#include "common/assert.h"
#include "proto/child.h"

/* Exit status of a process that met a failed write or sync: the supervisor logs it and starts it
 * again. */
#define EXIT_FATAL 70

struct pool_job {
    uv_work_t work;
    struct job *job;
    struct disk *disk;
};

static uint64_t posix_now_ns(struct env *env)
{
    (void)env;
    return uv_hrtime();
}

static void posix_random(struct env *env, void *to, size_t len)
{
    (void)env;
    for (size_t done = 0; done < len;) {
        ssize_t got = getrandom((char *)to + done, len - done, 0);
        ASSERT(got > 0 || errno == EINTR);
        if (got > 0)
            done += (size_t)got;
    }
}

static void run_job(uv_work_t *work)
{
    struct pool_job *pool_job = work->data;
    pool_job->job->work(pool_job->job, pool_job->disk);
}

static void job_ran(uv_work_t *work, int status)
{
    ASSERT(status == 0);
    struct pool_job *pool_job = work->data;
    struct job *job = pool_job->job;
    free(pool_job);
    job->done(job);
}

static void posix_submit(struct env *env, struct job *job)
{
    struct env_posix *posix = (struct env_posix *)env;
    if (job->brief && posix->finished_count < ENV_FINISHED_MAX) {
        job->work(job, env->disk);
        posix->finished[posix->finished_count++] = job;
        return;
    }
    struct pool_job *pool_job = malloc(sizeof *pool_job);
    ASSERT(pool_job != NULL);
    *pool_job = (struct pool_job){.job = job, .disk = env->disk};
    pool_job->work.data = pool_job;
    ASSERT(uv_queue_work(posix->loop, &pool_job->work, run_job, job_ran) == 0);
}

bool env_posix_finish(struct env_posix *env)
{
    unsigned count = env->finished_count;
    struct job *finished[ENV_FINISHED_MAX];
    memcpy(finished, env->finished, sizeof finished);
    env->finished_count = 0;
    for (unsigned i = 0; i < count; i++)
        finished[i]->done(finished[i]);
    return count > 0;
}

static struct buf *posix_outbox(struct env *env, uint32_t link)
{
    struct env_posix *posix = (struct env_posix *)env;
    return posix->links.outbox(posix->links.ctx, link);
}

static struct buf *posix_peer(struct env *env, uint32_t node)
{
    struct env_posix *posix = (struct env_posix *)env;
    return posix->links.peer != NULL ? posix->links.peer(posix->links.ctx, node) : NULL;
}

static void posix_fatal(struct env *env, enum err err, const char *what)
{
    if (err == ERR_OK) {
        log_info(env->log, "bucket.again", "reason=\"%s\"", what);
        _exit(CHILD_EXIT_AGAIN);
    }
    log_error(env->log, "bucket.fatal", "error=%s what=\"%s\"", err_name(err), what);
    _exit(EXIT_FATAL);
}

static enum err posix_replace_disk(struct env *env, const char *what)
{
    enum err err = disk_posix_set_aside(env->disk);
    if (err != ERR_OK) {
        log_error(env->log, "bucket.not_set_aside", "reason=\"%s\" error=%s%s", what, err_name(err),
                  err == ERR_EXISTS ? " hint=\"an older one lies in damaged/: remove it\"" : "");
        return err;
    }
    log_error(env->log, "bucket.set_aside",
              "reason=\"%s\" as=damaged effect=\"rebuilt from other replicas\"", what);
    _exit(CHILD_EXIT_AGAIN);
}

static const struct env_ops posix_ops = {
    .now_ns = posix_now_ns,
    .random = posix_random,
    .submit = posix_submit,
    .outbox = posix_outbox,
    .peer = posix_peer,
    .fatal = posix_fatal,
    .replace_disk = posix_replace_disk,
};

void env_posix_init(struct env_posix *env, uv_loop_t *loop, struct disk *disk,
                    const struct log *log, const struct env_posix_links *links)
{
    *env = (struct env_posix){
        .env = {.ops = &posix_ops, .disk = disk, .log = log},
        .loop = loop,
        .links = *links,
    };
}
