/* ECLUSTER: the cluster as this node knows it; NODES, PARTITIONS. */
#include "netd/command.h"
#include "netd/netd.h"

static void write_summary(const struct netd *netd, struct buf *out, int proto,
                          const struct cluster_view *view);
static void write_nodes(struct buf *out, int proto, const struct cluster_view *view);
static void write_node(struct buf *out, int proto, const struct rec_report_node *node);
static void write_buckets(const struct netd *netd, struct buf *out, int proto,
                          const struct cluster_view *view);
static void write_replica(struct buf *out, int proto, const struct cluster_view *view,
                          const struct rec_report_replica *replica);

enum handled cmd_ecluster(struct client *client, struct request *request, struct args *args)
{
    struct netd *netd = client->netd;
    struct buf *out = request_out(request);
    bool nodes = args_take_word(args, "NODES");
    bool partitions = !nodes && args_take_word(args, "PARTITIONS");
    if (args->left > 0) {
        args_unexpected(args,
                        nodes || partitions ? "end of input" : "NODES, PARTITIONS or end of input");
        return HANDLED_FAILED;
    }
    struct cluster_view view;
    cluster_get_view(netd->cluster, &view);
    if (nodes)
        write_nodes(out, request->proto, &view);
    else if (partitions)
        write_buckets(netd, out, request->proto, &view);
    else
        write_summary(netd, out, request->proto, &view);
    view_release(&view);
    return HANDLED_DONE;
}

static void put_number(struct buf *out, const char *name, uint64_t value)
{
    resp_bulk_str(out, name);
    resp_number(out, (int64_t)value);
}

static void put_text(struct buf *out, const char *name, const char *value)
{
    resp_bulk_str(out, name);
    resp_bulk_str(out, value);
}

static void put_span(struct buf *out, const char *name, struct span value)
{
    resp_bulk_str(out, name);
    resp_bulk(out, value);
}

static void put_boolean(struct buf *out, int proto, const char *name, bool value)
{
    resp_bulk_str(out, name);
    resp_boolean(out, proto, value);
}

/* Null where it isn't known. */
static void put_known(struct buf *out, int proto, const char *name, bool known, uint64_t value)
{
    resp_bulk_str(out, name);
    if (known)
        resp_number(out, (int64_t)value);
    else
        resp_null(out, proto);
}

static void write_summary(const struct netd *netd, struct buf *out, int proto,
                          const struct cluster_view *view)
{
    const struct config *config = netd->config;
    resp_map(out, proto, 11);
    put_text(out, "state", view_state_name(view->state));
    put_text(out, "mode", config->node.count > 1 ? "cluster" : "standalone");
    put_text(out, "cluster", config->cluster.name);
    put_number(out, "node", config->node.index);
    put_number(out, "nodes", view->node_count);
    put_number(out, "nodes_alive", view->nodes_alive);
    put_number(out, "replication_factor", config->replication.factor);
    put_number(out, "buckets", view->bucket_count);
    put_number(out, "buckets_led", view->buckets_led);
    put_number(out, "partitions", config->partition.count);
    resp_bulk_str(out, "problems");
    struct span problems = buf_span(&view->problems);
    struct rec_report_problem problem;
    uint32_t count = 0;
    while (rec_next_report_problem(&problems, &problem) == ERR_OK)
        count++;
    resp_array(out, count);
    problems = buf_span(&view->problems);
    while (rec_next_report_problem(&problems, &problem) == ERR_OK)
        resp_bulk(out, problem.text);
}

static void write_nodes(struct buf *out, int proto, const struct cluster_view *view)
{
    resp_array(out, view->node_count);
    for (uint32_t i = 0; i < view->node_count; i++)
        write_node(out, proto, &view->nodes[i]);
}

static void write_node(struct buf *out, int proto, const struct rec_report_node *node)
{
    bool heard = node->boot != 0;
    resp_map(out, proto, 19);
    put_number(out, "node", node->node);
    put_span(out, "name", node->name);
    put_span(out, "address", node->address);
    put_span(out, "version", node->version);
    put_boolean(out, proto, "self", node->self);
    put_boolean(out, proto, "alive", node->alive);
    put_text(out, "health", heard ? view_health_name(node->health) : "unknown");
    put_known(out, proto, "boot", heard, node->boot);
    put_known(out, proto, "started_ms", heard, node->age_ms);
    put_number(out, "since_ms", node->since_ms);
    put_number(out, "silent_ms", node->silent_ms);
    put_known(out, proto, "rtt_us", node->rtt_us != 0, node->rtt_us);
    put_number(out, "buckets", node->replicas);
    put_number(out, "leads", node->leads);
    put_number(out, "load", node->load);
    put_number(out, "bytes_in", node->bytes_in);
    put_number(out, "bytes_out", node->bytes_out);
    put_number(out, "items_dropped", node->items_dropped);
    put_span(out, "found", node->found);
}

/* As CLUSTER SHARDS does: what belongs together once, with the nodes that hold it. */
static void write_buckets(const struct netd *netd, struct buf *out, int proto,
                          const struct cluster_view *view)
{
    uint32_t partitions = netd->config->partition.count;
    resp_array(out, view->bucket_count);
    for (uint32_t i = 0; i < view->bucket_count; i++) {
        const struct view_bucket *bucket = &view->buckets[i];
        bool led = bucket->leader != VIEW_NONE;
        const struct rec_report_replica *leader = led ? &view->replicas[bucket->leader] : NULL;
        resp_map(out, proto, 6);
        put_number(out, "bucket", i);
        resp_bulk_str(out, "partitions");
        resp_array(out, (partitions - i + view->bucket_count - 1) / view->bucket_count);
        for (uint32_t partition = i; partition < partitions; partition += view->bucket_count)
            resp_number(out, partition);
        put_known(out, proto, "leader", led, led ? leader->node : 0);
        put_number(out, "term", bucket->term);
        put_known(out, proto, "commit_idx", led && leader->commit_idx != 0,
                  led ? leader->commit_idx : 0);
        resp_bulk_str(out, "replicas");
        resp_array(out, bucket->count);
        for (uint32_t k = bucket->first; k < bucket->first + bucket->count; k++)
            write_replica(out, proto, view, &view->replicas[k]);
    }
}

static void write_replica(struct buf *out, int proto, const struct cluster_view *view,
                          const struct rec_report_replica *replica)
{
    bool known = replica->known && replica->last_idx != 0;
    resp_map(out, proto, 11);
    put_number(out, "node", replica->node);
    put_span(out, "name", view->nodes[replica->node].name);
    put_boolean(out, proto, "alive", replica->alive);
    put_text(out, "state", replica->known ? view_process_name(replica->state) : "unknown");
    put_text(out, "role", replica->alive ? view_role_name(replica->role) : "unknown");
    put_number(out, "term", replica->term);
    put_known(out, proto, "commit_idx", known, replica->commit_idx);
    put_known(out, proto, "last_idx", known, replica->last_idx);
    put_known(out, proto, "lag", known, replica->lag);
    put_boolean(out, proto, "ready", replica->alive && replica->ready);
    put_boolean(out, proto, "damaged", replica->damaged);
}
