/* INFO and DBSIZE: figures of netd, and of all buckets, each asked once. */
#include <stdlib.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/limits.h"
#include "netd/command.h"
#include "netd/netd.h"

/* A bucket that doesn't answer in this time is reported as it is; INFO is asked when things are
 * slow. */
#define INFO_TIMEOUT_MS   1000u
#define CACHE_BLOCK_BYTES 65536u

struct bucket_part {
    struct request *request;
    struct call call;
    bool answered;
    struct msg_info_reply info;
};

static void ask_buckets(struct request *request, uint64_t timeout_ms);
static void on_info(struct call *call, const struct msg *reply);
static void finish(struct request *request);
static void render_dbsize(struct request *request);
static void render_cache(struct request *request);
static void render_text(struct request *request);
static void print_server(const struct netd *netd, struct buf *out);
static void print_clients(const struct netd *netd, struct buf *out);
static void print_statistics(const struct netd *netd, struct buf *out);
static void print_cluster(const struct netd *netd, struct buf *out);
static void print_buckets(const struct request *request, struct buf *out);
static bool section_is(const struct request *request, const char *name);
static struct msg_info_reply sum(const struct request *request);

enum handled cmd_info(struct client *client, struct request *request, struct args *args)
{
    struct span section = {0};
    if (args->left > 0 && !args_text(args, "section", &section))
        return HANDLED_FAILED;
    if (section.len >= sizeof request->stream || (args->left > 0 && !args_end(args)))
        return args_unexpected(args, "one section"), HANDLED_FAILED;
    /* A bare INFO first of all is a library of RESP2 that waits until the server is ready. */
    if (section.len == 0 && client->commands == 1 && !client->proto_fixed) {
        client->proto_fixed = true;
        client_set_proto(client, 2);
        request->proto = 2;
    }
    memcpy(request->stream, section.ptr != NULL ? section.ptr : (const uint8_t *)"", section.len);
    request->stream[section.len] = '\0';
    ask_buckets(request, INFO_TIMEOUT_MS);
    return HANDLED_LATER;
}

enum handled cmd_dbsize(struct client *client, struct request *request, struct args *args)
{
    if (!args_end(args))
        return HANDLED_FAILED;
    ask_buckets(request, client->netd->config->network.request_timeout_ms);
    return HANDLED_LATER;
}

void request_cancel_parts(struct request *request)
{
    if (request->parts == NULL)
        return;
    for (uint32_t i = 0; i < request->netd->config->bucket.count; i++)
        router_cancel(request->netd->router, &request->parts[i].call);
    free(request->parts);
    request->parts = NULL;
}

static void ask_buckets(struct request *request, uint64_t timeout_ms)
{
    struct netd *netd = request->netd;
    uint32_t count = netd->config->bucket.count;
    request->parts = calloc(count, sizeof *request->parts);
    ASSERT(request->parts != NULL);
    request->parts_left = count;
    for (uint32_t i = 0; i < count; i++) {
        struct bucket_part *part = &request->parts[i];
        part->request = request;
        part->call.done = on_info;
        part->call.deadline_ms = netd_now_ms(netd) + timeout_ms;
        part->call.msg.tag = TAG_info_req;
        router_submit(netd->router, i, &part->call);
    }
}

static void on_info(struct call *call, const struct msg *reply)
{
    struct bucket_part *part =
        (struct bucket_part *)((char *)call - offsetof(struct bucket_part, call));
    struct request *request = part->request;
    part->answered = reply->tag == TAG_info_reply;
    if (part->answered)
        part->info = reply->u.info_reply;
    if (--request->parts_left == 0)
        finish(request);
}

static void finish(struct request *request)
{
    if (request->command->handler == cmd_dbsize)
        render_dbsize(request);
    else if (section_is(request, "CACHE"))
        render_cache(request);
    else
        render_text(request);
    free(request->parts);
    request->parts = NULL;
    request_done(request);
}

static void render_dbsize(struct request *request)
{
    struct buf *out = request_out(request);
    for (uint32_t i = 0; i < request->netd->config->bucket.count; i++)
        if (!request->parts[i].answered) {
            resp_error(out, err_code(ERR_DOWN), span_str(err_text(ERR_DOWN)));
            return;
        }
    resp_number(out, (int64_t)sum(request).events);
}

static void render_cache(struct request *request)
{
    struct buf *out = request_out(request);
    int proto = request->proto;
    struct msg_info_reply total = sum(request);
    uint64_t asked = total.cache_hits + total.cache_misses;
    resp_map(out, proto, 8);
    resp_bulk_str(out, "hits");
    resp_number(out, (int64_t)total.cache_hits);
    resp_bulk_str(out, "misses");
    resp_number(out, (int64_t)total.cache_misses);
    resp_bulk_str(out, "hit_ratio");
    uint64_t thousandths = asked == 0 ? 0 : (total.cache_hits * 1000 + asked / 2) / asked;
    resp_double(out, proto, (double)thousandths / 1000.0);
    resp_bulk_str(out, "entries");
    resp_number(out, (int64_t)total.cache_entries);
    resp_bulk_str(out, "memory_bytes");
    resp_number(out, (int64_t)total.cache_bytes);
    resp_bulk_str(out, "max_bytes");
    resp_number(out, (int64_t)request->netd->config->cache.capacity_bytes);
    resp_bulk_str(out, "block_size_bytes");
    resp_number(out, CACHE_BLOCK_BYTES);
    resp_bulk_str(out, "evictions");
    resp_number(out, (int64_t)total.cache_evictions);
}

static void render_text(struct request *request)
{
    struct netd *netd = request->netd;
    struct buf text = {0};
    bool all = request->stream[0] == '\0' || section_is(request, "ALL") ||
               section_is(request, "EVERYTHING") || section_is(request, "DEFAULT");
    if (all || section_is(request, "SERVER"))
        print_server(netd, &text);
    if (all || section_is(request, "CLIENTS"))
        print_clients(netd, &text);
    if (all || section_is(request, "MEMORY"))
        buf_printf(&text, "# Memory\r\nused_memory:%lu\r\nused_memory_rss:%lu\r\n\r\n",
                   netd_memory_bytes(), netd_memory_bytes());
    if (all || section_is(request, "PERSISTENCE"))
        buf_printf(&text, "# Persistence\r\nloading:0\r\naof_enabled:1\r\n\r\n");
    if (all || section_is(request, "STATS"))
        print_statistics(netd, &text);
    if (all || section_is(request, "REPLICATION"))
        buf_printf(&text, "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n");
    if (all || section_is(request, "CLUSTER"))
        print_cluster(netd, &text);
    if (all || section_is(request, "BUCKETS"))
        print_buckets(request, &text);
    resp_bulk(request_out(request), buf_span(&text));
    buf_release(&text);
}

static void print_server(const struct netd *netd, struct buf *out)
{
    uint64_t uptime = (netd_now_ms(netd) - netd->started_ms) / 1000;
    buf_printf(out,
               "# "
               "Server\r\nserver_name:sierradb\r\nsierradb_version:%s\r\nredis_version:7.0."
               "0\r\nredis_mode:%s\r\n"
               "process_id:%d\r\nrun_id:%s\r\ntcp_address:%s\r\nuptime_in_seconds:%lu\r\nuptime_in_"
               "days:%lu\r\n"
               "bucket_count:%u\r\npartition_count:%u\r\n\r\n",
               SIERRADB_VERSION, netd->config->node.count > 1 ? "cluster" : "standalone", getpid(),
               netd->node_id, netd->config->network.client_address, uptime, uptime / 86400,
               netd->config->bucket.count, netd->config->partition.count);
}

static void print_clients(const struct netd *netd, struct buf *out)
{
    buf_printf(out,
               "# Clients\r\nconnected_clients:%lu\r\nmaxclients:%lu\r\nsubscriptions:%lu\r\n\r\n",
               netd->client_count, netd->clients_max, hubs_subscriptions(netd->hubs));
}

static void print_statistics(const struct netd *netd, struct buf *out)
{
    const struct netd_stats *stats = &netd->stats;
    struct router_stats router;
    router_get_stats(netd->router, &router);
    buf_printf(
        out,
        "# "
        "Stats\r\ntotal_connections_received:%lu\r\nrejected_connections:%lu\r\ntotal_commands_"
        "processed:%lu\r\n"
        "total_error_replies:%lu\r\ntotal_net_input_bytes:%lu\r\ntotal_net_output_bytes:%lu\r\n"
        "appends:%lu\r\nevents_appended:%lu\r\nevents_read:%lu\r\nevents_pushed:%lu\r\n"
        "append_frames:%lu\r\nappends_per_frame:%.2f\r\nappends_sent_again:%lu\r\nappends_waiting:%"
        "lu\r\n\r\n",
        stats->connections, stats->rejected, stats->commands, stats->errors, stats->bytes_in,
        stats->bytes_out, stats->appends, stats->events_appended, stats->events_read,
        hubs_pushed(netd->hubs), router.frames,
        router.frames == 0 ? 0.0 : (double)router.frame_appends / (double)router.frames,
        router.resent, router.queued_appends);
}

static void print_cluster(const struct netd *netd, struct buf *out)
{
    if (netd->config->node.count == 1) {
        buf_printf(out, "# Cluster\r\ncluster_enabled:0\r\n\r\n");
        return;
    }
    struct cluster_view view;
    cluster_get_view(netd->cluster, &view);
    buf_printf(out,
               "# Cluster\r\ncluster_enabled:1\r\ncluster_name:%s\r\ncluster_state:%s\r\n"
               "cluster_node:%u\r\ncluster_known_nodes:%u\r\ncluster_nodes_alive:%u\r\n"
               "cluster_buckets_led:%u\r\ncluster_problems:%u\r\n\r\n",
               netd->config->cluster.name, view_state_name(view.state), netd->config->node.index,
               view.node_count, view.nodes_alive, view.buckets_led, view.problem_count);
    view_release(&view);
}

static void print_buckets(const struct request *request, struct buf *out)
{
    const struct netd *netd = request->netd;
    buf_printf(out, "# Buckets\r\nevents:%lu\r\ndisk_bytes:%lu\r\n", sum(request).events,
               sum(request).disk_bytes);
    for (uint32_t i = 0; i < netd->config->bucket.count; i++) {
        const struct bucket_part *part = &request->parts[i];
        const char *state = part->answered                           ? "up"
                            : router_bucket_is_down(netd->router, i) ? "down"
                            : router_bucket_is_up(netd->router, i)   ? "busy"
                                                                     : "starting";
        buf_printf(out, "bucket%u:state=%s,events=%lu,segments=%lu,disk_bytes=%lu\r\n", i, state,
                   part->info.events, part->info.segments, part->info.disk_bytes);
    }
    buf_printf(out, "\r\n");
}

static bool section_is(const struct request *request, const char *name)
{
    return text_is(span_str((const char *)request->stream), name);
}

static struct msg_info_reply sum(const struct request *request)
{
    struct msg_info_reply total = {0};
    for (uint32_t i = 0; i < request->netd->config->bucket.count; i++) {
        const struct msg_info_reply *info = &request->parts[i].info;
        total.cache_hits += info->cache_hits;
        total.cache_misses += info->cache_misses;
        total.cache_entries += info->cache_entries;
        total.cache_bytes += info->cache_bytes;
        total.cache_evictions += info->cache_evictions;
        total.events += info->events;
        total.segments += info->segments;
        total.disk_bytes += info->disk_bytes;
    }
    return total;
}
