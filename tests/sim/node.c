/* The simulated process: env, jobs, turns, deaths. */
#include "tests/sim/node.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"

/* A job from its submission to its end. */
struct fiber_job {
    struct node *node;
    struct job *job;
    struct fiber *fiber; /* NULL: waits for a thread */
    bool worked;
    uint64_t incarnation, number;
};

static struct disk_verdict before_disk_op(void *ctx, enum disk_op op);
static uint64_t latency(struct node *node, enum disk_op op);
static uint64_t error_chance(const struct node *node, enum disk_op op);
static void start_jobs(struct node *node);
static void run_fiber(void *arg);
static void on_job_event(void *ctx, uint64_t number);
static void end_job(struct node *node, unsigned i);
static void on_wake(void *ctx, uint64_t incarnation);
static void end_turn(struct node *node);
static void send_all(struct node *node, uint64_t frames);
static void wake_at(struct node *node, uint64_t local_ns);
static bool is_paused(struct node *node, void (*fn)(void *ctx, uint64_t arg), uint64_t arg);
static void bury(struct node *node);
static uint64_t env_now(struct env *env);
static void env_random(struct env *env, void *to, size_t len);
static void env_submit(struct env *env, struct job *job);
static struct buf *env_outbox(struct env *env, uint32_t link);
static struct buf *env_peer(struct env *env, uint32_t node);
static void env_fatal(struct env *env, enum err err, const char *what);
static enum err env_replace_disk(struct env *env, const char *what);
static void log_line(void *ctx, enum log_level level, const char *line);

static const struct env_ops env_ops = {
    .now_ns = env_now,
    .random = env_random,
    .submit = env_submit,
    .outbox = env_outbox,
    .peer = env_peer,
    .fatal = env_fatal,
    .replace_disk = env_replace_disk,
};

static struct node *node_of(struct env *env)
{
    return (struct node *)((char *)env - offsetof(struct node, env));
}

void node_init(struct node *node, struct sched *sched, struct trace *trace, struct prng *seed,
               const struct bucket_config *config, const struct node_callbacks *callbacks)
{
    *node = (struct node){.sched = sched,
                          .trace = trace,
                          .config = *config,
                          .callbacks = *callbacks,
                          .power_keep = 500000};
    snprintf(node->name, sizeof node->name, "node");
    node->prng = prng_fork(seed);
    node->core_prng = prng_fork(seed);
    node->faults = (struct node_faults){.threads = 4};
    node->log =
        (struct log){.level = LOG_DEBUG, .proc = "bucketd", .sink = log_line, .sink_ctx = node};
    /* Nobody would read the lines: they cost more than what they tell of. */
    if (!trace->print)
        node->log.level = LOG_ERROR + 1;
    node->disk = sim_disk_new(trace, &(struct disk_hooks){.ctx = node, .before = before_disk_op});
    node->env =
        (struct env){.ops = &env_ops, .disk = sim_disk_interface(node->disk), .log = &node->log};
}

void node_release(struct node *node)
{
    if (node->bucket != NULL) {
        node->dead = true;
        node->end = NODE_KILLED;
        node->callbacks.on_end = NULL;
        bury(node);
    }
    sim_disk_free(node->disk);
}

/* --- life --- */

enum err node_start(struct node *node)
{
    ASSERT(node->bucket == NULL && node->job_count == 0);
    node->incarnation++;
    node->counters.starts++;
    node->dead = node->stopping = node->read_errors_seen = false;
    node->wake_ns = UINT64_MAX;
    node->paused_until_ns = 0;
    node->recovery_ns = 0;
    trace_line(node->trace, "%s starts, incarnation %lu", node->name, node->incarnation);
    node->in_turn = true;
    node->bucket = bucket_new(&node->config, &node->env);
    enum err err = bucket_open(node->bucket);
    node->in_turn = false;
    trace_mix(node->trace, (uint64_t)err + 77);
    trace_line(node->trace, "%s open: %s", node->name, err_name(err));
    if (node->dead) {
        node->counters.recovery_deaths++;
        bury(node);
        return err == ERR_OK ? ERR_IO : err;
    }
    if (err != ERR_OK) {
        node->dead = true;
        node->end = NODE_KILLED;
        bury(node);
        return err;
    }
    node->in_turn = true;
    end_turn(node);
    return node->bucket == NULL ? ERR_IO : ERR_OK;
}

void node_add_link(struct node *node, uint32_t link)
{
    ASSERT(node->link_count < NODE_LINKS_MAX);
    node->links[node->link_count++] = (struct node_link){.id = link};
}

void node_lose_link(struct node *node, uint32_t link)
{
    node_begin(node);
    node_hand_lost_link(node, link);
    node_end(node);
}

void node_deliver(struct node *node, uint32_t link, struct span frame)
{
    ASSERT(node->bucket != NULL);
    node_begin(node);
    node_hand(node, link, frame);
    node_end(node);
}

void node_begin(struct node *node)
{
    ASSERT(!node->in_turn);
    node->in_turn = true;
}

static void trace_message(struct node *node, const char *way, uint32_t number,
                          const struct msg *msg)
{
    if (!node->trace->print)
        return;
    struct buf text = {0};
    msg_print(&text, msg);
    trace_line(node->trace, "%s %s %u %.*s", node->name, way, number, (int)min_u64(text.len, 300),
               (const char *)text.ptr);
    buf_release(&text);
}

void node_hand(struct node *node, uint32_t link, struct span frame)
{
    trace_mix(node->trace, link);
    trace_mix_bytes(node->trace, frame.ptr, frame.len);
    while (frame.len > 0 && node->bucket != NULL && !node->dead) {
        struct msg msg;
        enum err err = msg_unpack(&frame, &msg);
        ASSERT(err == ERR_OK);
        trace_message(node, "<- link", link, &msg);
        bucket_on_message(node->bucket, link, &msg);
    }
}

void node_hand_peer(struct node *node, uint32_t from, struct span frame)
{
    trace_mix(node->trace, (uint64_t)from | 1ull << 40);
    trace_mix_bytes(node->trace, frame.ptr, frame.len);
    while (frame.len > 0 && node->bucket != NULL && !node->dead) {
        struct msg msg;
        enum err err = msg_unpack(&frame, &msg);
        ASSERT(err == ERR_OK);
        trace_message(node, "<- node", from, &msg);
        bucket_on_peer_message(node->bucket, from, &msg);
    }
}

void node_hand_lost_link(struct node *node, uint32_t link)
{
    for (unsigned i = 0; i < node->link_count; i++) {
        if (node->links[i].id != link)
            continue;
        buf_release(&node->links[i].outbox);
        node->links[i] = node->links[--node->link_count];
        break;
    }
    if (node->bucket != NULL && !node->dead)
        bucket_on_link_lost(node->bucket, link);
}

void node_end(struct node *node)
{
    if (node->bucket == NULL)
        node->in_turn = false;
    else
        end_turn(node);
}

void node_replace_disk(struct node *node, struct sim_disk *disk)
{
    ASSERT(node->bucket == NULL);
    sim_disk_free(node->disk);
    node->disk = disk;
    sim_disk_attach(disk, node->trace, &(struct disk_hooks){.ctx = node, .before = before_disk_op});
    node->env.disk = sim_disk_interface(disk);
}

void node_die(struct node *node, enum node_end end)
{
    if (node->bucket == NULL)
        return;
    ASSERT(!node->in_turn);
    node->dead = true;
    node->end = end;
    bury(node);
}

void node_stop(struct node *node)
{
    if (node->bucket == NULL || node->stopping)
        return;
    trace_line(node->trace, "%s is asked to stop", node->name);
    node->stopping = true;
    node->in_turn = true;
    bucket_stop(node->bucket);
    end_turn(node);
}

/* The turn's end: what the core asks for, what leaves, whether it lives on. */
static void end_turn(struct node *node)
{
    uint64_t next = node->dead ? UINT64_MAX : bucket_turn(node->bucket);
    node->in_turn = false;
    if (node->dead) {
        bury(node);
        return;
    }
    if (node->callbacks.on_turn != NULL)
        node->callbacks.on_turn(node->callbacks.ctx);
    if (node->crash_in_turns > 0 && --node->crash_in_turns == 0) {
        trace_line(node->trace, "%s: crash point at a turn's end", node->name);
        send_all(node, prng_below(&node->prng, 4));
        node_die(node, node->crash_end);
        return;
    }
    send_all(node, UINT64_MAX);
    if (node->bucket == NULL)
        return;
    start_jobs(node);
    if (node->stopping && bucket_idle(node->bucket)) {
        node->dead = true;
        node->end = NODE_STOPPED;
        if (node->job_count > 0)
            trace_fail(node->trace, "bucket_idle says yes while %u jobs are in flight",
                       node->job_count);
        bury(node);
        return;
    }
    if (next != UINT64_MAX && next != node->wake_ns)
        wake_at(node, next);
}

/* So many of the frames that wait; the others stay where they are. */
static void send_all(struct node *node, uint64_t frames)
{
    for (unsigned i = 0; i < node->link_count && frames > 0; i++) {
        /* Moved out, since the owner may lose or add links meanwhile. */
        struct buf frame = node->links[i].outbox;
        node->links[i].outbox = (struct buf){0};
        if (frame.len > 0) {
            node->callbacks.on_frame(node->callbacks.ctx, node->links[i].id, buf_span(&frame));
            frames--;
        }
        buf_release(&frame);
    }
    for (unsigned i = 0; i < NODE_PEERS_MAX && frames > 0; i++) {
        if (node->peers[i].len == 0)
            continue;
        node->callbacks.on_peer_frame(node->callbacks.ctx, i, buf_span(&node->peers[i]));
        buf_clear(&node->peers[i], 4096);
        frames--;
    }
}

/* --- time --- */

uint64_t node_now(const struct node *node)
{
    int64_t passed = (int64_t)(node->sched->now_ns - node->clock.at_ns);
    return node->clock.local_ns + (uint64_t)(passed + passed * node->clock.drift_ppm / 1000000);
}

void node_set_clock(struct node *node, uint64_t local_ns, int64_t drift_ppm)
{
    ASSERT(node->bucket == NULL || local_ns >= node_now(node));
    node->clock = (struct node_clock){
        .at_ns = node->sched->now_ns, .local_ns = local_ns, .drift_ppm = drift_ppm};
    if (node->bucket != NULL && node->wake_ns != UINT64_MAX)
        wake_at(node, node->wake_ns);
}

static void wake_at(struct node *node, uint64_t local_ns)
{
    node->wake_ns = local_ns;
    uint64_t now = node_now(node), delay = local_ns > now ? local_ns - now : 0;
    /* Runs last hours at most, so that nothing overflows. */
    if (delay > 0 && node->clock.drift_ppm != 0)
        delay = (uint64_t)((double)delay * 1e6 / (1e6 + (double)node->clock.drift_ppm)) + 2;
    sched_after(node->sched, delay, on_wake, node, node->incarnation);
}

void node_pause(struct node *node, uint64_t until_ns)
{
    trace_line(node->trace, "%s stands still for %.1f ms", node->name,
               (double)(until_ns - node->sched->now_ns) / 1e6);
    node->paused_until_ns = until_ns;
}

/* Where it stands still, the event comes again when it goes on. */
static bool is_paused(struct node *node, void (*fn)(void *ctx, uint64_t arg), uint64_t arg)
{
    uint64_t now = node->sched->now_ns;
    if (now >= node->paused_until_ns)
        return false;
    sched_after(node->sched, node->paused_until_ns - now, fn, node, arg);
    return true;
}

static void on_wake(void *ctx, uint64_t incarnation)
{
    struct node *node = ctx;
    if (node->bucket == NULL || node->incarnation != incarnation ||
        node_now(node) < node->wake_ns || is_paused(node, on_wake, incarnation))
        return;
    node->wake_ns = UINT64_MAX;
    node->in_turn = true;
    end_turn(node);
}

/* Frees the process; jobs in the middle of their work come to an end without any effect. */
static void bury(struct node *node)
{
    static const char *const names[] = {"is killed", "loses power", "has stopped"};
    trace_mix(node->trace, (uint64_t)node->end + 1000);
    trace_line(node->trace, "%s %s", node->name, names[node->end]);
    for (unsigned i = 0; i < node->job_count; i++) {
        struct fiber_job *job = node->jobs[i];
        while (job->fiber != NULL && !job->worked)
            (void)fiber_resume(job->fiber);
        if (job->fiber != NULL)
            fiber_free(job->fiber);
        free(job);
    }
    node->job_count = node->running = 0;
    for (unsigned i = 0; i < node->link_count; i++)
        buf_release(&node->links[i].outbox);
    node->link_count = 0;
    for (unsigned i = 0; i < NODE_PEERS_MAX; i++)
        buf_release(&node->peers[i]);
    bucket_free(node->bucket);
    node->bucket = NULL;
    if (sim_disk_handles(node->disk) != 0)
        trace_fail(node->trace, "%u files or views are open after bucket_free",
                   sim_disk_handles(node->disk));
    else if (node->end == NODE_POWER_CUT)
        sim_disk_power_cut(node->disk, &node->prng, node->power_keep);
    node->counters.power_cuts += node->end == NODE_POWER_CUT;
    node->counters.kills += node->end == NODE_KILLED;
    node->counters.stops += node->end == NODE_STOPPED;
    if (node->callbacks.on_end != NULL)
        node->callbacks.on_end(node->callbacks.ctx, node->end);
}

/* --- jobs --- */

static void env_submit(struct env *env, struct job *job)
{
    struct node *node = node_of(env);
    ASSERT(node->job_count < NODE_JOBS_MAX);
    struct fiber_job *entry = calloc(1, sizeof *entry);
    ASSERT(entry != NULL);
    static const uint64_t tag = 0x10b;
    trace_mix(node->trace, tag);
    *entry = (struct fiber_job){.node = node, .job = job, .incarnation = node->incarnation};
    node->jobs[node->job_count++] = entry;
}

static void start_jobs(struct node *node)
{
    for (unsigned i = 0; i < node->job_count && node->running < node->faults.threads; i++) {
        struct fiber_job *job = node->jobs[i];
        if (job->fiber != NULL)
            continue;
        job->fiber = fiber_new(run_fiber, job);
        job->number = prng_next(&node->prng);
        node->running++;
        sched_after(node->sched, prng_range(&node->prng, 1, 20) * US, on_job_event, node,
                    job->number);
    }
}

static void run_fiber(void *arg)
{
    struct fiber_job *job = arg;
    job->job->work(job->job, job->node->env.disk);
    job->worked = true;
}

/* The next stretch of a job's work; some time after its end the turn in which the core hears of it.
 * Jobs of an earlier incarnation aren't found any more. */
static void on_job_event(void *ctx, uint64_t number)
{
    struct node *node = ctx;
    unsigned i = 0;
    while (i < node->job_count && (node->jobs[i]->fiber == NULL || node->jobs[i]->number != number))
        i++;
    if (i == node->job_count || is_paused(node, on_job_event, number))
        return;
    struct fiber_job *job = node->jobs[i];
    if (job->worked) {
        end_job(node, i);
        return;
    }
    node->current = job;
    bool ended = fiber_resume(job->fiber);
    node->current = NULL;
    if (node->dead) {
        bury(node);
        return;
    }
    if (!ended)
        return;
    node->running--;
    sched_after(node->sched, prng_below(&node->prng, 60) * US, on_job_event, node, job->number);
    start_jobs(node);
}

static void end_job(struct node *node, unsigned i)
{
    struct fiber_job *job = node->jobs[i];
    memmove(&node->jobs[i], &node->jobs[i + 1], (node->job_count - i - 1) * sizeof node->jobs[0]);
    node->job_count--;
    struct job *done = job->job;
    fiber_free(job->fiber);
    free(job);
    trace_mix(node->trace, 0xd0e);
    node->in_turn = true;
    done->done(done);
    end_turn(node);
}

/* --- what the disk asks before each operation --- */

static struct disk_verdict before_disk_op(void *ctx, enum disk_op op)
{
    struct node *node = ctx;
    struct disk_verdict fail = {.err = ERR_IO};
    if (node->dead)
        return fail;
    node->counters.disk_ops++;
    if (node->crash_in_ops > 0 && --node->crash_in_ops == 0) {
        trace_line(node->trace, "%s: crash point at %s", node->name, disk_op_names[op]);
        node->dead = true;
        node->end = node->crash_end;
        fail.part = (unsigned)prng_below(&node->prng, 1025);
        return fail;
    }
    struct fiber_job *job = node->current;
    uint64_t takes_ns = latency(node, op);
    if (job != NULL) {
        sched_after(node->sched, takes_ns, on_job_event, node, job->number);
        node->current = NULL;
        fiber_yield(job->fiber);
        if (node->dead) {
            fail.part = (unsigned)prng_below(&node->prng, 1025);
            return fail;
        }
    } else {
        node->recovery_ns += takes_ns;
    }
    if (!prng_chance(&node->prng, error_chance(node, op)))
        return (struct disk_verdict){.err = ERR_OK};
    trace_line(node->trace, "%s: injected error at %s", node->name, disk_op_names[op]);
    node->counters.io_errors++;
    node->read_errors_seen |= op == DISK_READ || op == DISK_OPEN || op == DISK_LOOK;
    fail.part =
        op == DISK_WRITE || op == DISK_ALLOCATE ? (unsigned)prng_below(&node->prng, 1025) : 0;
    return fail;
}

static uint64_t latency(struct node *node, enum disk_op op)
{
    const struct node_faults *faults = &node->faults;
    if (op == DISK_SYNC || op == DISK_SYNC_DIR)
        return prng_range(&node->prng, faults->sync_ns_min, faults->sync_ns_max);
    return prng_range(&node->prng, faults->latency_ns_min, faults->latency_ns_max);
}

static uint64_t error_chance(const struct node *node, enum disk_op op)
{
    switch (op) {
    case DISK_READ:
    case DISK_OPEN:
    case DISK_LOOK:
        return node->faults.read_error;
    case DISK_WRITE:
        return node->faults.write_error;
    case DISK_SYNC:
    case DISK_SYNC_DIR:
        return node->faults.sync_error;
    case DISK_CREATE:
    case DISK_ALLOCATE:
    case DISK_TRUNCATE:
    case DISK_RENAME:
    case DISK_UNLINK:
    case DISK_MKDIR:
        return node->faults.other_error;
    case DISK_OP_COUNT:
        break;
    }
    return 0;
}

/* --- the rest of env --- */

static uint64_t env_now(struct env *env)
{
    return node_now(node_of(env));
}

static void env_random(struct env *env, void *to, size_t len)
{
    prng_fill(&node_of(env)->core_prng, to, len);
}

static struct buf *env_outbox(struct env *env, uint32_t link)
{
    struct node *node = node_of(env);
    for (unsigned i = 0; i < node->link_count && !node->dead; i++) {
        if (node->links[i].id == link)
            return &node->links[i].outbox;
    }
    return NULL;
}

static struct buf *env_peer(struct env *env, uint32_t to)
{
    struct node *node = node_of(env);
    ASSERT(to < NODE_PEERS_MAX);
    return node->dead || node->callbacks.on_peer_frame == NULL ? NULL : &node->peers[to];
}

/* Unlike the real one it returns: the rest of the turn has no effect, and nothing of it leaves. */
static void env_fatal(struct env *env, enum err err, const char *what)
{
    struct node *node = node_of(env);
    trace_line(node->trace, "%s: fatal %s: %s", node->name, err_name(err), what);
    if (node->dead)
        return;
    node->counters.fatals++;
    node->dead = true;
    node->end = NODE_KILLED;
}

static enum err env_replace_disk(struct env *env, const char *what)
{
    struct node *node = node_of(env);
    env_fatal(env, ERR_CORRUPT, what);
    node->disk_given_up = true;
    return ERR_OK;
}

static void log_line(void *ctx, enum log_level level, const char *line)
{
    struct node *node = ctx;
    (void)level;
    trace_line(node->trace, "%s: log %s", node->name, line);
}
