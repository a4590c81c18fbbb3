/* sierradb-bucketd: one bucket's daemon. A thin shell around bucketd/core: links and the thread
 * pool bring events, the end of each turn of the loop hands them to the core and sends what it
 * packed. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bucketd/core/bucket.h"
#include "bucketd/disk_posix.h"
#include "bucketd/env_posix.h"
#include "bucketd/relay.h"
#include "bucketd/report.h"
#include "common/assert.h"
#include "common/placement.h"
#include "proto/child.h"

/* Links at a time: one to netd, and the last one while its end isn't known yet. */
#define LINKS_MAX 8
/* Answers that netd hasn't taken; beyond it no request is taken in. */
#define ANSWERS_WAITING_BYTES_MAX (8u << 20)
#define NS_PER_MS                 1000000u

struct daemon;

struct bucket_link {
    struct daemon *daemon;
    uint32_t number; /* the core's; 0: free */
    struct link *link;
};

struct daemon {
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_timer_t timer;
    struct log log;
    struct config config;
    struct child_args args;
    struct child *child;
    struct env_posix env;
    struct bucket *bucket;
    struct bucket_link links[LINKS_MAX];
    struct bucket_link *netd; /* the one that is up; NULL: none */
    bool replicated;          /* other nodes have replicas of this bucket */
    struct relay relay;
    struct report report;
    bool stopping;
};

static void fill_bucket_config(const struct daemon *d, struct bucket_config *ret_config);
static void init_relay(struct daemon *d, const struct bucket_config *config);
static struct disk *open_disk(const struct daemon *d);
static void open_bucket(struct daemon *d);
static void start_turns(struct daemon *d);
static void turn(struct daemon *d);
static bool all_sent(const struct daemon *d);

static struct bucket_link *find_link(struct daemon *d, uint32_t number)
{
    for (unsigned i = 0; i < LINKS_MAX; i++) {
        if (d->links[i].number == number)
            return &d->links[i];
    }
    return NULL;
}

/* --- Links: called by proto/link.c and proto/child.c --- */

static void link_up(void *ctx, struct link *link)
{
    (void)link; /* netd tells the supervisor */
    struct bucket_link *l = ctx;
    l->daemon->netd = l;
    l->daemon->report = (struct report){0};
}

static void link_down(void *ctx, struct link *link)
{
    struct bucket_link *l = ctx;
    struct daemon *d = l->daemon;
    bucket_on_link_lost(d->bucket, l->number);
    if (d->netd == l) {
        d->netd = NULL;
        relay_on_netd_lost(&d->relay);
    }
    l->number = 0;
    l->link = NULL;
    link_close(link);
}

static void link_message(void *ctx, struct link *link, const struct msg *msg)
{
    (void)link;
    struct bucket_link *l = ctx;
    if (msg->tag == TAG_relay)
        relay_on_message(&l->daemon->relay, &msg->u.relay);
    else
        bucket_on_message(l->daemon->bucket, l->number, msg);
}

/* A new link to netd replaces an older one: its peer knows nothing of it any more. */
static enum err on_link_listen(void *ctx, uint64_t number, uint64_t peer_index, uint64_t peer_boot,
                               const char *path)
{
    (void)peer_index;
    struct daemon *d = ctx;
    for (unsigned i = 0; i < LINKS_MAX; i++) {
        if (d->links[i].number != 0)
            link_down(&d->links[i], d->links[i].link);
    }
    struct bucket_link *l = find_link(d, 0);
    ASSERT(l != NULL);
    struct link_config config = {.path = path,
                                 .listen = true,
                                 .own_boot = d->args.boot,
                                 .peer_boot = peer_boot,
                                 .own_index = d->args.index,
                                 .pause_bytes = ANSWERS_WAITING_BYTES_MAX,
                                 .log = &d->log};
    struct link_callbacks callbacks = {
        .ctx = l, .on_up = link_up, .on_down = link_down, .on_message = link_message};
    l->daemon = d;
    enum err err = link_open(&d->loop, &config, &callbacks, &l->link);
    if (err != ERR_OK)
        return err;
    l->number = relay_new_link(&d->relay);
    log_debug(&d->log, "link.listening", "link=%lu number=%u", number, l->number);
    return ERR_OK;
}

static void on_link_dial(void *ctx, uint64_t number, uint64_t peer_index, uint64_t peer_boot,
                         const char *path)
{
    (void)peer_index;
    (void)peer_boot;
    struct daemon *d = ctx;
    log_warn(&d->log, "link.dial_refused", "link=%lu path=\"%s\" reason=\"a bucket only listens\"",
             number, path);
}

static void on_stop(void *ctx, uint64_t deadline_ms)
{
    (void)deadline_ms; /* the supervisor's to enforce */
    struct daemon *d = ctx;
    bucket_stop(d->bucket);
    d->stopping = true;
}

static void on_stats(void *ctx, struct buf *out)
{
    struct daemon *d = ctx;
    report_stats(d->bucket, d->replicated, out);
}

static struct buf *find_outbox(void *ctx, uint32_t number)
{
    struct daemon *d = ctx;
    struct bucket_link *l = number != 0 ? find_link(d, number) : NULL;
    return l != NULL ? link_outbox(l->link) : relay_outbox(&d->relay, number);
}

static struct buf *find_peer(void *ctx, uint32_t node)
{
    struct daemon *d = ctx;
    return relay_peer(&d->relay, node);
}

/* --- Relays: called by relay.c --- */

static struct buf *netd_outbox(void *ctx)
{
    struct daemon *d = ctx;
    return d->netd != NULL ? link_outbox(d->netd->link) : NULL;
}

/* What a stopping replica took of a busy leader would keep it from ever being idle. */
static void on_peer(void *ctx, uint32_t node, const struct msg *msg)
{
    struct daemon *d = ctx;
    if (!d->stopping || msg->tag != TAG_entries)
        bucket_on_peer_message(d->bucket, node, msg);
}

static void on_request(void *ctx, uint32_t link, const struct msg *msg)
{
    struct daemon *d = ctx;
    bucket_on_message(d->bucket, link, msg);
}

static void on_remote_lost(void *ctx, uint32_t link)
{
    struct daemon *d = ctx;
    bucket_on_link_lost(d->bucket, link);
}

static void on_peer_down(void *ctx, const struct msg *msg)
{
    struct daemon *d = ctx;
    bucket_on_message(d->bucket, 0, msg);
}

/* --- Life --- */

int main(int argc, char **argv)
{
    struct daemon *d = calloc(1, sizeof *d);
    ASSERT(d != NULL);
    child_init(argc, argv, "bucketd", &d->args, &d->config, &d->log);
    ASSERT(uv_loop_init(&d->loop) == 0);
    struct child_callbacks callbacks = {.ctx = d,
                                        .on_link_listen = on_link_listen,
                                        .on_link_dial = on_link_dial,
                                        .on_stop = on_stop,
                                        .on_stats = on_stats};
    if (child_open(&d->loop, &d->args, &d->log, &callbacks, &d->child) != ERR_OK)
        return EXIT_FAILURE;
    struct disk *disk = open_disk(d);
    if (disk == NULL)
        return EXIT_FAILURE;
    struct bucket_config config;
    fill_bucket_config(d, &config);
    config.replaced = disk_posix_has_aside(disk);
    d->replicated = config.replica_count > 1;
    init_relay(d, &config);
    env_posix_init(&d->env, &d->loop, disk, &d->log,
                   &(struct env_posix_links){.ctx = d, .outbox = find_outbox, .peer = find_peer});
    d->bucket = bucket_new(&config, &d->env.env);
    /* Recovery blocks the loop; the supervisor must have heard of us before. */
    while (!child_is_up(d->child))
        uv_run(&d->loop, UV_RUN_ONCE);
    child_flush(d->child);
    open_bucket(d);
    start_turns(d);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    abort(); /* it ends in child_bye */
}

/* Buckets of this node share its caches. */
static uint32_t local_buckets(const struct config *c)
{
    uint32_t count = c->bucket.ids_count;
    for (uint32_t bucket = 0; c->bucket.ids_count == 0 && bucket < c->bucket.count; bucket++)
        count += placement_holds(bucket, c->node.count, c->replication.factor, c->node.index);
    return count;
}

static void fill_bucket_config(const struct daemon *d, struct bucket_config *ret_config)
{
    const struct config *c = &d->config;
    uint64_t sharers = max_u64(local_buckets(c), 1);
    *ret_config = (struct bucket_config){
        .bucket = (uint32_t)d->args.index,
        .bucket_count = c->bucket.count,
        .partition_count = c->partition.count,
        .cluster_id = d->args.cluster_id,
        .node = c->node.index,
        .segment_bytes = c->segment.size_bytes,
        .compression = c->segment.compression,
        .event_bytes_max = c->append.max_event_bytes,
        .transaction_bytes_max = c->append.max_transaction_bytes,
        .cache_bytes = c->cache.capacity_bytes / sharers,
        .index_cache_bytes = c->cache.index_capacity_bytes / sharers,
        .boot = d->args.boot,
        .age = d->args.age_ms,
        .tick_ns = c->replication.tick_ms * NS_PER_MS,
        .election_timeout_ns = c->replication.election_timeout_ms * NS_PER_MS,
        .stale_after_ns = c->replication.stale_after_ms * NS_PER_MS,
        .uncommitted_bytes_max = c->replication.uncommitted_bytes,
        .balance_leaders = c->cluster.balance_leaders,
    };
    ret_config->replica_count = placement_replicas(ret_config->bucket, c->node.count,
                                                   c->replication.factor, ret_config->replicas);
}

static void init_relay(struct daemon *d, const struct bucket_config *config)
{
    struct relay_ops ops = {.ctx = d,
                            .netd_outbox = netd_outbox,
                            .on_peer = on_peer,
                            .on_request = on_request,
                            .on_link_lost = on_remote_lost,
                            .on_peer_down = on_peer_down};
    relay_init(&d->relay, config->node, config->replicas, config->replica_count, &ops, &d->log);
}

static struct disk *open_disk(const struct daemon *d)
{
    struct buf path = {0};
    buf_printf(&path, "%s/buckets/%05lu", d->config.dir, d->args.index);
    buf_append_zeros(&path, 1);
    struct disk *disk = disk_posix_open((char *)path.ptr, &d->log);
    buf_release(&path);
    return disk;
}

static void open_bucket(struct daemon *d)
{
    uint64_t start_ns = uv_hrtime();
    enum err err = bucket_open(d->bucket);
    if (err != ERR_OK) {
        log_error(&d->log, "bucket.open_failed", "error=%s", err_name(err));
        exit(EXIT_FAILURE);
    }
    uint64_t recovery_us = (uv_hrtime() - start_ns) / 1000;
    struct bucket_stats stats;
    bucket_get_stats(d->bucket, &stats);
    log_debug(&d->log, "bucket.ready", "events=%lu segments=%lu recovery_us=%lu", stats.events,
              stats.segments, recovery_us);
    child_ready(d->child, recovery_us);
}

/* --- Turns --- */

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

/* Both before the loop waits and after: libuv runs timers before it polls, so without the first
 * of them the loop would sleep on what a timer did. */
static void start_turns(struct daemon *d)
{
    uv_timer_init(&d->loop, &d->timer);
    uv_prepare_init(&d->loop, &d->prepare);
    uv_check_init(&d->loop, &d->check);
    d->prepare.data = d->check.data = d;
    uv_prepare_start(&d->prepare, on_prepare);
    uv_check_start(&d->check, on_check);
}

static void turn(struct daemon *d)
{
    uint64_t next_ns = bucket_turn(d->bucket);
    while (env_posix_finish(&d->env))
        next_ns = bucket_turn(d->bucket);
    if (next_ns == UINT64_MAX) {
        uv_timer_stop(&d->timer);
    } else {
        uint64_t now_ns = uv_hrtime();
        uint64_t wait_ns = next_ns > now_ns ? next_ns - now_ns : 0;
        uv_update_time(&d->loop);
        uv_timer_start(&d->timer, on_timer, (wait_ns + 999999) / 1000000, 0);
    }
    if (d->replicated && d->netd != NULL) {
        report_replica(&d->report, d->bucket, uv_hrtime(), link_outbox(d->netd->link));
        relay_flush(&d->relay);
    }
    for (unsigned i = 0; i < LINKS_MAX; i++) {
        if (d->links[i].number != 0)
            link_flush(d->links[i].link);
    }
    if (d->stopping && bucket_idle(d->bucket) && all_sent(d))
        child_bye(d->child);
    child_flush(d->child);
}

static bool all_sent(const struct daemon *d)
{
    for (unsigned i = 0; i < LINKS_MAX; i++) {
        if (d->links[i].number != 0 && !link_flushed(d->links[i].link))
            return false;
    }
    return true;
}
