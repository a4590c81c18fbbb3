/* Recovery tried on copies: what a power cut right now would leave holds all that was acknowledged,
 * and recovering twice gives the same as once. */
#include "tests/sim/cluster/cl_oracle.h"

#include "common/assert.h"

/* A process that only recovers. */
struct image {
    struct env env;
    struct log log;
    struct prng prng;
    struct buf sink;
    bool dead;
};

static struct image *image_of(struct env *env)
{
    return (struct image *)((char *)env - offsetof(struct image, env));
}

static uint64_t image_now(struct env *env)
{
    (void)env;
    return 1;
}

static void image_random(struct env *env, void *to, size_t len)
{
    prng_fill(&image_of(env)->prng, to, len);
}

/* What begins behind recovery isn't waited for. */
static void image_submit(struct env *env, struct job *job)
{
    (void)env;
    (void)job;
}

static struct buf *image_outbox(struct env *env, uint32_t to)
{
    struct image *image = image_of(env);
    (void)to;
    image->sink.len = 0;
    return &image->sink;
}

static void image_fatal(struct env *env, enum err err, const char *what)
{
    (void)err;
    (void)what;
    image_of(env)->dead = true;
}

static enum err image_replace_disk(struct env *env, const char *what)
{
    image_fatal(env, ERR_CORRUPT, what);
    return ERR_OK;
}

static void image_log(void *ctx, enum log_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line;
}

static const struct env_ops image_ops = {
    .now_ns = image_now,
    .random = image_random,
    .submit = image_submit,
    .outbox = image_outbox,
    .peer = image_outbox,
    .fatal = image_fatal,
    .replace_disk = image_replace_disk,
};

static enum err recover(struct sim_disk *disk, const struct bucket_config *config, uint64_t seed,
                        struct replica_state *ret_state)
{
    struct image image = {.prng = {.state = seed}, .log = {.level = LOG_ERROR, .sink = image_log}};
    image.env =
        (struct env){.ops = &image_ops, .disk = sim_disk_interface(disk), .log = &image.log};
    struct bucket *bucket = bucket_new(config, &image.env);
    enum err err = bucket_open(bucket);
    *ret_state = (struct replica_state){0};
    if (err == ERR_OK && !image.dead)
        bucket_get_replica_state(bucket, ret_state);
    bucket_free(bucket);
    buf_release(&image.sink);
    return image.dead ? ERR_IO : err;
}

static bool is_same(const struct replica_state *a, const struct replica_state *b)
{
    return a->term == b->term && a->voted_for == b->voted_for && a->last_idx == b->last_idx &&
           a->last_chain == b->last_chain && a->commit_idx == b->commit_idx &&
           a->disk_id == b->disk_id;
}

void oracle_check_image(struct oracle *oracle, uint32_t node, bool cut)
{
    struct oracle_node *self = &oracle->nodes[node];
    const struct node *process = &oracle->cluster->nodes[node].node;
    struct prng prng = prng_fork(&oracle->prng);
    struct sim_disk *copy = sim_disk_clone(process->disk);
    if (cut)
        sim_disk_power_cut(copy, &prng, prng_chance(&prng, 500000) ? 0 : 500000);
    struct replica_state once, twice;
    enum err err = recover(copy, &process->config, prng_next(&prng), &once);
    enum err again = recover(copy, &process->config, prng_next(&prng), &twice);
    sim_disk_free(copy);
    oracle->totals.recoveries++;
    if (err != again || (err == ERR_OK && !is_same(&once, &twice)))
        inside_fail(oracle, "recovery",
                    "node %u: a copy recovers as %s term %lu vote %lu idx %lu committed %lu, then "
                    "as %s term %lu vote %lu idx %lu committed %lu",
                    node, err_name(err), once.term, once.voted_for, once.last_idx, once.commit_idx,
                    err_name(again), twice.term, twice.voted_for, twice.last_idx, twice.commit_idx);
    if (self->was_damaged)
        return; /* it may rightly refuse, or know less */
    if (err != ERR_OK)
        inside_fail(oracle, "recovery", "node %u: a copy doesn't recover: %s", node, err_name(err));
    bool acked = self->acked_term != UINT64_MAX;
    bool less = once.term < self->acked_term ||
                (once.term == self->acked_term && once.last_idx < self->acked_idx);
    if (cut && acked && less)
        inside_fail(oracle, "recovery",
                    "node %u: after a power cut now it would have idx %lu in term %lu, it has "
                    "acknowledged %lu in term %lu",
                    node, once.last_idx, once.term, self->acked_idx, self->acked_term);
}
