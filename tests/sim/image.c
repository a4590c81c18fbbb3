/* Reading an image: a bucket in a world where nothing ever goes wrong. */
#include "tests/sim/image.h"

#include "common/assert.h"

#define LINK          1u
#define JOBS_MAX      256u
#define TURNS_MAX     10000u
#define HOLES_MAX     4096u

struct image {
    struct env env;
    struct log log;
    struct prng prng;
    struct bucket *bucket;
    struct job *jobs[JOBS_MAX];
    unsigned job_count;
    struct buf outbox;
    bool dead;
    uint64_t req_id;
    const struct image_reader *reader;
};

static void scan(struct image *image, uint32_t partition);
static bool ask(struct image *image, const struct msg_scan_partition_req *req, struct buf *answer, struct msg *ret_msg);

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

static void image_submit(struct env *env, struct job *job)
{
    struct image *image = image_of(env);
    ASSERT(image->job_count < JOBS_MAX);
    image->jobs[image->job_count++] = job;
}

static struct buf *image_outbox(struct env *env, uint32_t link)
{
    return link == LINK ? &image_of(env)->outbox : NULL;
}

static void image_fatal(struct env *env, enum err err, const char *what)
{
    struct image *image = image_of(env);
    (void)err;
    image->dead = true;
    image->reader->on_problem(image->reader->ctx, what);
}

static void image_log(void *ctx, enum log_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line;
}

static const struct env_ops image_ops = {
    .now_ns = image_now, .random = image_random, .submit = image_submit, .outbox = image_outbox, .fatal = image_fatal,
};

enum err image_read(struct sim_disk *disk, const struct bucket_config *config, uint64_t seed,
                    const struct image_reader *reader)
{
    struct image image = {.prng = {.state = seed}, .reader = reader, .log = {.level = LOG_ERROR, .sink = image_log}};
    image.env = (struct env){.ops = &image_ops, .disk = sim_disk_interface(disk), .log = &image.log};
    image.bucket = bucket_new(config, &image.env);
    enum err err = bucket_open(image.bucket);
    if (err == ERR_OK && !image.dead) {
        bucket_turn(image.bucket);
        for (uint32_t p = config->bucket; p < config->partition_count && !image.dead; p += config->bucket_count)
            scan(&image, p);
    }
    bucket_free(image.bucket);
    buf_release(&image.outbox);
    if (sim_disk_handles(disk) != 0)
        reader->on_problem(reader->ctx, "files or views are open after bucket_free");
    return err;
}

static void scan(struct image *image, uint32_t partition)
{
    const struct image_reader *reader = image->reader;
    struct buf answer = {0};
    struct msg msg;
    uint64_t from = 0, holes = 0;
    for (;;) {
        struct msg_scan_partition_req req = {.partition = partition, .from = from, .to = UINT64_MAX,
                                             .count = 1000, .bytes = 256u << 10, .watermark = UINT64_MAX};
        if (!ask(image, &req, &answer, &msg))
            break;
        if (msg.tag == TAG_fail_reply) {
            /* The chunk met damage: one by one, so that only what is damaged counts as lost. */
            req.count = 1;
            if (!ask(image, &req, &answer, &msg))
                break;
            if (msg.tag == TAG_fail_reply) {
                reader->on_hole(reader->ctx, partition, from++, (enum err)msg.u.fail_reply.error);
                if (++holes > HOLES_MAX) {
                    reader->on_problem(reader->ctx, "a scan fails for ever");
                    break;
                }
                continue;
            }
        }
        struct rec_stored_event event;
        uint64_t count = 0;
        while (rec_next_stored_event(&msg.u.events_reply.events, &event) == ERR_OK) {
            if (event.sequence != from + count)
                reader->on_problem(reader->ctx, "a scan's events aren't contiguous");
            reader->on_event(reader->ctx, &event);
            count++;
        }
        from += count;
        if (!msg.u.events_reply.more) {
            reader->on_end(reader->ctx, partition, msg.u.events_reply.watermark);
            break;
        }
        if (count == 0) {
            reader->on_problem(reader->ctx, "an empty chunk says that more follows");
            break;
        }
    }
    buf_release(&answer);
}

/* Asks and runs jobs until the answer is there; it points into *answer. */
static bool ask(struct image *image, const struct msg_scan_partition_req *req, struct buf *answer, struct msg *ret_msg)
{
    struct msg msg = {.tag = TAG_scan_partition_req, .u.scan_partition_req = *req};
    msg.u.scan_partition_req.req_id = ++image->req_id;
    image->outbox.len = 0;
    bucket_on_message(image->bucket, LINK, &msg);
    for (unsigned turns = 0; turns < TURNS_MAX && !image->dead; turns++) {
        bucket_turn(image->bucket);
        if (image->outbox.len > 0)
            break;
        if (image->job_count == 0)
            break;
        struct job *job = image->jobs[0];
        memmove(image->jobs, image->jobs + 1, --image->job_count * sizeof image->jobs[0]);
        job->work(job, image->env.disk);
        job->done(job);
    }
    answer->len = 0;
    buf_append(answer, image->outbox.ptr, image->outbox.len);
    struct span frame = buf_span(answer);
    if (frame.len == 0 || msg_unpack(&frame, ret_msg) != ERR_OK || frame.len != 0 ||
        (ret_msg->tag != TAG_fail_reply && ret_msg->tag != TAG_events_reply)) {
        image->reader->on_problem(image->reader->ctx, "a scan of the image wasn't answered");
        return false;
    }
    return true;
}
