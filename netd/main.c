/* sierradb-netd: the daemon that speaks with clients. Started by the supervisor alone. */
#include <stdlib.h>

#include "common/assert.h"
#include "netd/netd.h"

struct daemon {
    struct netd netd;
    struct child_args args;
    struct config config;
    struct log log;
    uv_loop_t loop;
};

static void on_link_dial(void *ctx, uint64_t link, uint64_t peer_index, uint64_t peer_boot,
                         const char *path)
{
    struct netd *netd = ctx;
    if (peer_index < netd->config->bucket.count)
        router_dial(netd->router, (uint32_t)peer_index, link, peer_boot, path);
}

/* netd dials, it never listens for another actor. */
static enum err on_link_listen(void *ctx, uint64_t link, uint64_t peer_index, uint64_t peer_boot,
                               const char *path)
{
    (void)ctx;
    (void)link;
    (void)peer_index;
    (void)peer_boot;
    (void)path;
    return ERR_INVALID;
}

static void on_bucket_state(void *ctx, uint64_t bucket, enum bucket_state state)
{
    struct netd *netd = ctx;
    if (bucket >= netd->config->bucket.count)
        return;
    router_bucket_state(netd->router, (uint32_t)bucket, state);
    cluster_on_bucket_state(netd->cluster, (uint32_t)bucket, state);
}

static void on_bucket_ended(void *ctx, uint64_t bucket, uint64_t boot)
{
    struct netd *netd = ctx;
    if (bucket < netd->config->bucket.count)
        cluster_on_bucket_ended(netd->cluster, (uint32_t)bucket, boot);
}

static void on_report(void *ctx, struct msg_report_reply *ret_report)
{
    struct netd *netd = ctx;
    cluster_get_report(netd->cluster, ret_report);
}

static void on_stop(void *ctx, uint64_t deadline_ms)
{
    netd_stop(ctx, deadline_ms);
}

static void on_stats(void *ctx, struct buf *out)
{
    netd_print_stats(ctx, out);
}

int main(int argc, char **argv)
{
    struct daemon *daemon = calloc(1, sizeof *daemon);
    ASSERT(daemon != NULL);
    child_init(argc, argv, "netd", &daemon->args, &daemon->config, &daemon->log);
    int error = uv_loop_init(&daemon->loop);
    ASSERT(error == 0);
    if (netd_init(&daemon->netd, &daemon->loop, &daemon->config, &daemon->log, &daemon->args) !=
            ERR_OK ||
        netd_listen(&daemon->netd) != ERR_OK)
        return 1;
    struct child_callbacks callbacks = {
        .ctx = &daemon->netd,
        .on_link_listen = on_link_listen,
        .on_link_dial = on_link_dial,
        .on_bucket_state = on_bucket_state,
        .on_bucket_ended = on_bucket_ended,
        .on_report = on_report,
        .on_stop = on_stop,
        .on_stats = on_stats,
    };
    enum err err =
        child_open(&daemon->loop, &daemon->args, &daemon->log, &callbacks, &daemon->netd.child);
    if (err != ERR_OK) {
        log_error(&daemon->log, "start.failed", "error=%s", err_name(err));
        return 1;
    }
    child_ready(daemon->netd.child, 0);
    uv_run(&daemon->loop, UV_RUN_DEFAULT);
    return 0;
}
