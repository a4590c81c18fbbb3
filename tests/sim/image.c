/* Reading an image: a bucket in a world where nothing ever goes wrong. */
#include "tests/sim/image.h"

#include "common/assert.h"

#define LINK          1u
#define JOBS_MAX      256u
#define TURNS_MAX     10000u
/* So many reads in a row may fail where the partition's end is unknown. */
#define HOLES_MAX     64u

struct image {
    struct env env;
    struct log log;
    struct prng prng;
    struct bucket *bucket;
    struct job *jobs[JOBS_MAX];
    unsigned job_count;
    struct buf outbox;
    bool dead;
    const struct image_reader *reader;
};

static void scan(struct image *image, uint32_t partition);
static uint64_t see_events(struct image *image, const struct msg_events_reply *reply,
                           uint64_t from);
static bool ask(struct image *image, struct msg *msg, enum msg_tag expected, struct buf *answer);

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
    .now_ns = image_now,
    .random = image_random,
    .submit = image_submit,
    .outbox = image_outbox,
    .fatal = image_fatal,
};

enum err image_read(struct sim_disk *disk, const struct bucket_config *config, uint64_t seed,
                    const struct image_reader *reader)
{
    struct image image = {
        .prng = {.state = seed}, .reader = reader, .log = {.level = LOG_ERROR, .sink = image_log}};
    image.env =
        (struct env){.ops = &image_ops, .disk = sim_disk_interface(disk), .log = &image.log};
    image.bucket = bucket_new(config, &image.env);
    enum err err = bucket_open(image.bucket);
    if (err == ERR_OK && !image.dead) {
        bucket_turn(image.bucket);
        for (uint32_t p = config->bucket; p < config->partition_count && !image.dead;
             p += config->bucket_count)
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
    struct msg msg = {.tag = TAG_sequence_req, .u.sequence_req.partition = partition};
    uint64_t end = UINT64_MAX, from = 0, holes = 0;
    if (ask(image, &msg, TAG_number_reply, &answer) && msg.tag == TAG_number_reply)
        end = msg.u.number_reply.watermark;
    while (from < end && !image->dead) {
        bool alone = holes > 0;
        msg = (struct msg){.tag = TAG_scan_partition_req};
        msg.u.scan_partition_req = (struct msg_scan_partition_req){
            .partition = partition, .from = from, .to = UINT64_MAX, .count = alone ? 1 : 1000,
            .bytes = 256u << 10, .watermark = UINT64_MAX};
        if (!ask(image, &msg, TAG_events_reply, &answer))
            break;
        if (msg.tag == TAG_fail_reply) {
            /* Damage: on from the event behind it, unless nobody knows where the partition ends. */
            if (++holes > HOLES_MAX && end == UINT64_MAX)
                break;
            if (end != UINT64_MAX)
                reader->on_hole(reader->ctx, partition, from, (enum err)msg.u.fail_reply.error);
            from++;
            continue;
        }
        uint64_t count = see_events(image, &msg.u.events_reply, from);
        from += count;
        if (count > 0)
            holes = 0;
        if (!msg.u.events_reply.more && from != end) {
            reader->on_problem(reader->ctx, "a scan ends before the partition does");
            break;
        }
        if (count == 0) {
            reader->on_problem(reader->ctx, "an empty chunk before the partition's end");
            break;
        }
    }
    reader->on_end(reader->ctx, partition, end);
    buf_release(&answer);
}

static uint64_t see_events(struct image *image, const struct msg_events_reply *reply, uint64_t from)
{
    const struct image_reader *reader = image->reader;
    struct rec_stored_event event;
    struct span list = reply->events;
    uint64_t count = 0;
    while (rec_next_stored_event(&list, &event) == ERR_OK) {
        if (event.sequence != from + count)
            reader->on_problem(reader->ctx, "a scan's events aren't contiguous");
        reader->on_event(reader->ctx, &event);
        count++;
    }
    return count;
}

/* Sends *msg and runs jobs until the answer is there: it is put into *msg and points into *answer.
 */
static bool ask(struct image *image, struct msg *msg, enum msg_tag expected, struct buf *answer)
{
    image->outbox.len = 0;
    bucket_on_message(image->bucket, LINK, msg);
    for (unsigned turns = 0; turns < TURNS_MAX && !image->dead; turns++) {
        bucket_turn(image->bucket);
        if (image->outbox.len > 0 || image->job_count == 0)
            break;
        struct job *job = image->jobs[0];
        memmove(image->jobs, image->jobs + 1, --image->job_count * sizeof image->jobs[0]);
        job->work(job, image->env.disk);
        job->done(job);
    }
    answer->len = 0;
    buf_append(answer, image->outbox.ptr, image->outbox.len);
    struct span frame = buf_span(answer);
    if (frame.len == 0 || msg_unpack(&frame, msg) != ERR_OK || frame.len != 0 ||
        (msg->tag != TAG_fail_reply && msg->tag != expected)) {
        image->reader->on_problem(image->reader->ctx, "a read of the image wasn't answered");
        return false;
    }
    return true;
}
