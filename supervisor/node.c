/* The supervisor's shell: libuv and links bring events, supervisor.c decides, this file does. */
#include "supervisor/node.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/placement.h"
#include "supervisor/meta.h"
#include "supervisor/node_internal.h"

#define STATS_MS 1000
/* Where nobody has looked for so long, and none of them has just started, they are asked less
 * often: each answer wakes a process. */
#define LOOKED_MS      10000
#define YOUNG_MS       30000
#define STATS_QUIET_MS 5000
/* A process that works but doesn't answer for so long is reported. */
#define UNANSWERED_MS_MAX 10000
/* A second signal so much later means it: kill. */
#define STOP_TWICE_MS_MIN 1000

static void raise_open_files(struct node *node);
static enum err prepare_node(struct node *node, struct buf *error);
static void init_supervisor(struct node *node);
static void start_loop(struct node *node);
static bool start_child(void *ctx, unsigned number, uint64_t boot);
static enum err open_child_link(struct node_child *child, uint64_t boot);
static void on_child_exit(void *ctx, const char *how, bool again);
static void drop_link(struct node_child *child);
static void turn(struct node *node);
static void ask_stats(uv_timer_t *timer);

_Noreturn void node_run(const struct config *config)
{
    struct node *node = calloc(1, sizeof *node);
    ASSERT(node != NULL);
    node->config = config;
    snprintf(node->log.proc, sizeof node->log.proc, "supervisor");
    log_level_parse(config->log_level, &node->log.level);
    ASSERT(uv_loop_init(&node->loop) == 0);
    raise_open_files(node);
    struct buf error = {0};
    enum err err = prepare_node(node, &error);
    if (err != ERR_OK) {
        fprintf(stderr, "sierradb: %.*s", (int)error.len, (char *)error.ptr);
        _exit(EXIT_FAILURE); /* nothing runs yet, and nothing needs tidying */
    }
    init_supervisor(node);
    start_loop(node);
    supervisor_start(&node->supervisor, node_now_ms());
    uv_run(&node->loop, UV_RUN_DEFAULT);
    abort(); /* it ends in turn() */
}

/* Shells and service managers keep the soft limit low for programs that use select(); none of ours
 * does. The children inherit it, and netd says where even the hard limit is too low. */
static void raise_open_files(struct node *node)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == files.rlim_max)
        return;
    rlim_t before = files.rlim_cur;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        log_warn(&node->log, "files.not_raised", "soft=%lu hard=%lu error=\"%s\"", before,
                 files.rlim_max, strerror(errno));
}

static uint64_t wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Everything that can be wrong with the start. */
static enum err prepare_node(struct node *node, struct buf *error)
{
    if (node->config->node.count > 1 && node->config->bucket.ids_count > 0) {
        buf_printf(error,
                   "bucket.ids: expected all where node.count is above 1 (it is %u): which "
                   "nodes hold a bucket follows from its number\n",
                   node->config->node.count);
        return ERR_CONFIG;
    }
    enum err err = process_find_exe("sierradb-netd", "netd", &node->netd_exe);
    if (err == ERR_OK)
        err = process_find_exe("sierradb-bucketd", "bucketd", &node->bucketd_exe);
    if (err != ERR_OK) {
        buf_printf(error, "%s is missing: expected it beside this program or in %s\n",
                   node->netd_exe == NULL ? "sierradb-netd" : "sierradb-bucketd",
                   SIERRADB_LIBEXEC_DIR);
        return err;
    }
    err = datadir_open(node->config, &node->datadir, error);
    if (err == ERR_OK)
        err = meta_open(node->config, &node->cluster_id, error);
    if (err != ERR_OK)
        return err;
    node->boot = datadir_next_number(node->datadir);
    node->age_ms = wall_ms();
    node->config_fd = process_config_fd(node->config);
    return ERR_OK;
}

/* --- What the core asks for --- */

static uint64_t next_number(void *ctx)
{
    struct node *node = ctx;
    return datadir_next_number(node->datadir);
}

static void kill_child(void *ctx, unsigned number)
{
    struct node *node = ctx;
    if (node->children[number].process != NULL)
        process_kill(node->children[number].process);
}

static struct buf *outbox(void *ctx, unsigned number)
{
    struct node *node = ctx;
    ASSERT(node->children[number].link != NULL);
    return link_outbox(node->children[number].link);
}

static void let_go(void *ctx, unsigned number)
{
    struct node *node = ctx;
    drop_link(&node->children[number]);
}

static void link_path(void *ctx, uint32_t bucket, uint64_t link,
                      char path[static IPC_PATH_LEN_MAX + 1])
{
    struct node *node = ctx;
    int len = snprintf(path, IPC_PATH_LEN_MAX + 1, "%s/netd-b%u.%lu.ipc", node->config->run_dir,
                       bucket, link);
    ASSERT(len <= (int)IPC_PATH_LEN_MAX); /* datadir.c checked run_dir */
}

static void node_ready(void *ctx)
{
    struct node *node = ctx;
    const struct supervisor *s = &node->supervisor;
    uint64_t recovery_us = 0;
    unsigned down = 0;
    for (unsigned i = 1; i < s->count; i++) {
        recovery_us = max_u64(recovery_us, s->children[i].recovery_us);
        down += s->children[i].reported_down;
    }
    log_event(&node->log, down > 0 ? LOG_WARN : LOG_INFO, "node.ready",
              "address=%s buckets=%u down=%u recovery_ms=%lu start_ms=%lu",
              node->config->network.client_address, s->count - 1, down, recovery_us / 1000,
              node_now_ms() - node->started_ms);
}

/* Those that run here; returns how many. */
static unsigned choose_buckets(const struct config *c, uint32_t *ret_buckets)
{
    if (c->bucket.ids_count > 0) {
        memcpy(ret_buckets, c->bucket.ids, c->bucket.ids_count * sizeof *ret_buckets);
        return c->bucket.ids_count;
    }
    unsigned count = 0;
    for (uint32_t bucket = 0; bucket < c->bucket.count; bucket++) {
        if (placement_holds(bucket, c->node.count, c->replication.factor, c->node.index))
            ret_buckets[count++] = bucket;
    }
    return count;
}

/* Buckets are what work is spread by: nodes beyond them are of little use. */
static void warn_of_placement(const struct node *node)
{
    const struct config *c = node->config;
    struct placement_share *shares = calloc(c->node.count, sizeof *shares);
    ASSERT(shares != NULL);
    placement_count(c->bucket.count, c->node.count, c->replication.factor, shares);
    unsigned spare = 0, idle = 0;
    for (uint32_t i = 0; i < c->node.count; i++) {
        spare += shares[i].holds == 0;
        idle += shares[i].leads == 0;
    }
    bool few = spare > 0 || c->node.count > c->bucket.count;
    const struct placement_share *own = &shares[c->node.index];
    log_event(&node->log, few ? LOG_WARN : LOG_INFO, few ? "placement.few_buckets" : "placement",
              "nodes=%u buckets=%u replicas=%u holds=%u leads=%u nodes_without_bucket=%u "
              "nodes_without_lead=%u%s",
              c->node.count, c->bucket.count, c->replication.factor, own->holds, own->leads, spare,
              idle, few ? " reason=\"more nodes than bucket.count can use\"" : "");
    free(shares);
}

static void init_supervisor(struct node *node)
{
    const struct config *c = node->config;
    uint32_t *buckets = calloc(max_u64(c->bucket.count, c->bucket.ids_count), sizeof *buckets);
    ASSERT(buckets != NULL);
    unsigned count = choose_buckets(c, buckets);
    if (c->node.count > 1)
        warn_of_placement(node);
    node->children = calloc(count + 1, sizeof *node->children);
    ASSERT(node->children != NULL);
    for (unsigned i = 0; i <= count; i++) {
        node->children[i].node = node;
        node->children[i].number = i;
    }
    struct supervisor_config config = {.backoff_ms_max = c->supervisor.restart_backoff_ms_max,
                                       .crash_limit = c->supervisor.crash_limit,
                                       .stop_timeout_ms = c->supervisor.stop_timeout_ms,
                                       .buckets_stop_first = c->node.count > 1};
    struct supervisor_ops ops = {.ctx = node,
                                 .next_number = next_number,
                                 .start = start_child,
                                 .kill = kill_child,
                                 .outbox = outbox,
                                 .let_go = let_go,
                                 .link_path = link_path,
                                 .node_ready = node_ready};
    supervisor_init(&node->supervisor, &config, c->bucket.count, buckets, count, &ops, &node->log);
    free(buckets);
}

/* --- Children --- */

static bool start_child(void *ctx, unsigned number, uint64_t boot)
{
    struct node *node = ctx;
    struct node_child *child = &node->children[number];
    const struct supervised *c = &node->supervisor.children[number];
    bool netd = c->kind == CHILD_NETD;
    ASSERT(child->process == NULL && child->link == NULL);
    int len = netd ? snprintf(child->link_path, sizeof child->link_path, "%s/sup-netd.%lu.ipc",
                              node->config->run_dir, boot)
                   : snprintf(child->link_path, sizeof child->link_path, "%s/sup-b%u.%lu.ipc",
                              node->config->run_dir, c->index, boot);
    ASSERT(len <= (int)IPC_PATH_LEN_MAX);
    struct process_spec spec = {
        .exe = netd ? node->netd_exe : node->bucketd_exe,
        .index = c->index,
        .boot = boot,
        .supervisor_boot = node->boot,
        .age_ms = node->age_ms,
        .link_path = child->link_path,
        .cluster_id = node->cluster_id,
        .config_fd = node->config_fd,
        .pool_threads = node->config->threads.read + node->config->threads.write,
    };
    child->process = process_start(&node->loop, &spec, on_child_exit, child, &node->log);
    if (child->process == NULL)
        return false;
    if (open_child_link(child, boot) != ERR_OK)
        process_kill(child->process); /* its end is reported as usual */
    return true;
}

static void on_link_up(void *ctx, struct link *link)
{
    (void)link;
    struct node_child *child = ctx;
    child->link_up = true;
    supervisor_on_linked(&child->node->supervisor, child->number, node_now_ms());
}

static void on_link_down(void *ctx, struct link *link)
{
    (void)link;
    struct node_child *child = ctx;
    drop_link(child);
    supervisor_on_unlinked(&child->node->supervisor, child->number, node_now_ms());
}

static void on_link_message(void *ctx, struct link *link, const struct msg *msg)
{
    (void)link;
    struct node_child *child = ctx;
    if (msg->tag == TAG_stats_reply)
        report_on_stats(child, msg->u.stats_reply.text, node_now_ms());
    else if (msg->tag == TAG_report_reply)
        requests_on_report(child->node, &msg->u.report_reply);
    else
        supervisor_on_message(&child->node->supervisor, child->number, msg, node_now_ms());
}

static enum err open_child_link(struct node_child *child, uint64_t boot)
{
    struct node *node = child->node;
    struct link_config config = {.path = child->link_path,
                                 .listen = false,
                                 .own_boot = node->boot,
                                 .peer_boot = boot,
                                 .log = &node->log};
    struct link_callbacks callbacks = {
        .ctx = child, .on_up = on_link_up, .on_down = on_link_down, .on_message = on_link_message};
    return link_open(&node->loop, &config, &callbacks, &child->link);
}

static void drop_link(struct node_child *child)
{
    if (child->link != NULL)
        link_close(child->link);
    child->link = NULL;
    child->link_up = false;
}

/* Its listeners are gone with it, so their paths can go too. */
static void on_child_exit(void *ctx, const char *how, bool again)
{
    struct node_child *child = ctx;
    struct node *node = child->node;
    const struct supervised *c = &node->supervisor.children[child->number];
    char prefix[32];
    unlink(child->link_path);
    if (c->kind == CHILD_BUCKETD) {
        snprintf(prefix, sizeof prefix, "netd-b%u.", c->index);
        datadir_remove_sockets(node->config->run_dir, prefix);
    }
    child->process = NULL;
    drop_link(child);
    report_forget(child);
    if (c->kind == CHILD_NETD)
        requests_expire(node, UINT64_MAX); /* it won't answer any more */
    supervisor_on_exit(&node->supervisor, child->number, how, again, node_now_ms());
}

/* --- The operator --- */

static void on_signal(uv_signal_t *handle, int number)
{
    struct node *node = handle->data;
    if (number == SIGHUP) {
        log_info(&node->log, "signal.ignored",
                 "signal=SIGHUP "
                 "reason=\"a changed configuration needs a restart\"");
        return;
    }
    /* A terminal or a service manager may send one wish to stop twice: to the group and to the
     * process. */
    uint64_t now_ms = node_now_ms();
    if (node->stop_ms != 0 && now_ms - node->stop_ms < STOP_TWICE_MS_MIN)
        return;
    log_info(&node->log, node->stop_ms == 0 ? "node.stopping" : "node.killing", "by=%s",
             number == SIGTERM ? "SIGTERM" : "SIGINT");
    node->stop_ms = now_ms;
    supervisor_stop(&node->supervisor, now_ms);
}

/* --- The loop --- */

static void on_prepare(uv_prepare_t *prepare)
{
    turn(prepare->data);
}

static void on_check(uv_check_t *check)
{
    turn(check->data);
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer; /* only wakes the loop: the turn follows */
}

static void start_loop(struct node *node)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < 3; i++) {
        uv_signal_init(&node->loop, &node->signals[i]);
        node->signals[i].data = node;
        ASSERT(uv_signal_start(&node->signals[i], on_signal, numbers[i]) == 0);
    }
    uv_timer_init(&node->loop, &node->timer);
    uv_timer_init(&node->loop, &node->stats_timer);
    uv_prepare_init(&node->loop, &node->prepare);
    uv_check_init(&node->loop, &node->check);
    node->stats_timer.data = node->prepare.data = node->check.data = node;
    uv_timer_start(&node->stats_timer, ask_stats, STATS_MS, STATS_MS);
    uv_prepare_start(&node->prepare, on_prepare);
    uv_check_start(&node->check, on_check);
    node->started_ms = node_now_ms();
    enum err err = control_open(&node->loop, node->config->run_dir, requests_answer, node,
                                &node->log, &node->control);
    if (err != ERR_OK)
        log_warn(&node->log, "control.unavailable", "error=%s", err_name(err));
}

static void turn(struct node *node)
{
    uint64_t now_ms = node_now_ms();
    uint64_t next_ms = supervisor_tick(&node->supervisor, now_ms);
    if (node->supervisor.stopping == STOP_DONE) {
        log_info(&node->log, "node.stopped", "after_ms=%lu", now_ms - node->started_ms);
        _exit(node->supervisor.gave_up ? EXIT_FAILURE : EXIT_SUCCESS);
    }
    if (next_ms == UINT64_MAX) {
        uv_timer_stop(&node->timer);
    } else {
        uv_update_time(&node->loop);
        uv_timer_start(&node->timer, on_timer, next_ms > now_ms ? next_ms - now_ms : 0, 0);
    }
    for (unsigned i = 0; i < node->supervisor.count; i++) {
        if (node->children[i].link != NULL)
            link_flush(node->children[i].link);
    }
}

static void ask_stats(uv_timer_t *timer)
{
    struct node *node = timer->data;
    uint64_t now_ms = node_now_ms();
    requests_expire(node, now_ms);
    bool lively = node->looked_ms != 0 && now_ms - node->looked_ms < LOOKED_MS;
    for (unsigned i = 0; i < node->supervisor.count; i++)
        lively |= now_ms - node->supervisor.children[i].ready_ms < YOUNG_MS;
    if (!lively && now_ms - node->stats_asked_ms < STATS_QUIET_MS)
        return;
    node->stats_asked_ms = now_ms;
    node->stats_req_id++;
    for (unsigned i = 0; i < node->supervisor.count; i++) {
        struct node_child *child = &node->children[i];
        const struct supervised *c = &node->supervisor.children[i];
        if (c->state != CHILD_UP || !child->link_up)
            continue;
        uint64_t heard_ms = max_u64(child->stats.answered_ms, c->ready_ms);
        if (now_ms - heard_ms > UNANSWERED_MS_MAX) {
            /* Not asked again until it answers: its link's queue must not grow. */
            char name[24];
            supervised_name(c, name);
            if (!child->stats.unanswered_logged)
                log_warn(&node->log, "process.unresponsive", "process=%s pid=%d for_ms=%lu", name,
                         process_pid(child->process), now_ms - heard_ms);
            child->stats.unanswered_logged = true;
            continue;
        }
        msg_pack_stats_req(link_outbox(child->link),
                           &(struct msg_stats_req){.req_id = node->stats_req_id});
    }
}
