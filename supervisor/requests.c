/* What operators ask the running node for, over the control socket. */
#include <stdlib.h>

#include "common/assert.h"
#include "netd/cluster_view.h"
#include "supervisor/node_internal.h"

#define REPORT_MS_MAX 5000u

static json_t *restart(struct node *node, const json_t *request);
static json_t *ask_report(struct node *node, uint64_t token);
static json_t *report_json(const struct node *node, const struct msg_report_reply *report);
static json_t *nodes_json(struct span list);
static json_t *buckets_json(struct span list);
static json_t *replica_json(const struct rec_report_replica *r);
static json_t *problems_json(struct span list);

static json_t *refuse(const char *error)
{
    return json_pack("{s:b, s:s}", "ok", 0, "error", error);
}

json_t *requests_answer(void *ctx, const json_t *request, uint64_t token)
{
    struct node *node = ctx;
    const char *command = json_string_value(json_object_get(request, "command"));
    if (command != NULL && strcmp(command, "status") == 0) {
        node->looked_ms = node_now_ms();
        return report_status(node);
    }
    if (command != NULL && strcmp(command, "cluster") == 0)
        return ask_report(node, token);
    if (command != NULL && strcmp(command, "restart") == 0)
        return restart(node, request);
    if (command != NULL && strcmp(command, "stop") == 0) {
        log_info(&node->log, "node.stopping", "by=operator");
        node->stop_ms = node_now_ms();
        supervisor_stop(&node->supervisor, node_now_ms());
        return json_pack("{s:b}", "ok", 1);
    }
    return refuse("unknown command");
}

static json_t *restart(struct node *node, const json_t *request)
{
    const char *kind = json_string_value(json_object_get(request, "kind"));
    json_int_t index = json_integer_value(json_object_get(request, "index"));
    bool netd = kind != NULL && strcmp(kind, "netd") == 0;
    struct supervisor *s = &node->supervisor;
    for (unsigned i = 0; i < s->count && kind != NULL; i++) {
        const struct supervised *c = &s->children[i];
        if (netd != (c->kind == CHILD_NETD) || (!netd && c->index != (uint64_t)index))
            continue;
        char name[24];
        supervised_name(c, name);
        log_info(&node->log, "process.restart_asked", "process=%s", name);
        uint64_t boot = c->boot;
        supervisor_restart(s, i, node_now_ms());
        return json_pack("{s:b, s:I}", "ok", 1, "old_boot", (json_int_t)boot);
    }
    return refuse("this node runs no such process");
}

/* --- The cluster, as netd knows it --- */

static json_t *ask_report(struct node *node, uint64_t token)
{
    struct node_child *netd = &node->children[0];
    struct awaited_report *awaited = NULL;
    for (unsigned i = 0; i < REPORTS_MAX; i++) {
        if (node->reports[i].token == 0)
            awaited = &node->reports[i];
    }
    if (netd->link == NULL || !netd->link_up)
        return refuse("netd isn't up");
    if (awaited == NULL)
        return refuse("too many ask at a time");
    *awaited = (struct awaited_report){
        .token = token, .req_id = ++node->report_req_id, .until_ms = node_now_ms() + REPORT_MS_MAX};
    msg_pack_report_req(link_outbox(netd->link),
                        &(struct msg_report_req){.req_id = awaited->req_id});
    return NULL;
}

void requests_on_report(struct node *node, const struct msg_report_reply *report)
{
    for (unsigned i = 0; i < REPORTS_MAX; i++) {
        struct awaited_report *awaited = &node->reports[i];
        if (awaited->token == 0 || awaited->req_id != report->req_id)
            continue;
        control_answer(node->control, awaited->token, report_json(node, report));
        awaited->token = 0;
    }
}

void requests_expire(struct node *node, uint64_t now_ms)
{
    for (unsigned i = 0; i < REPORTS_MAX; i++) {
        struct awaited_report *awaited = &node->reports[i];
        if (awaited->token == 0 || now_ms < awaited->until_ms)
            continue;
        control_answer(node->control, awaited->token, refuse("netd doesn't answer"));
        awaited->token = 0;
    }
}

static json_t *report_json(const struct node *node, const struct msg_report_reply *report)
{
    const struct config *config = node->config;
    char id[UUID_TEXT_LEN];
    uuid_format(&node->cluster_id, id);
    return json_pack("{s:b, s:s, s:s, s:s%, s:i, s:i, s:i, s:i, s:o, s:o, s:o}", "ok", 1, "state",
                     view_state_name((enum view_state)report->state), "cluster",
                     config->cluster.name, "cluster_id", id, (size_t)UUID_TEXT_LEN, "node",
                     (int)config->node.index, "node_count", (int)config->node.count,
                     "replication_factor", (int)config->replication.factor, "partition_count",
                     (int)config->partition.count, "nodes", nodes_json(report->nodes), "buckets",
                     buckets_json(report->replicas), "problems", problems_json(report->problems));
}

static json_t *text_json(struct span text)
{
    json_t *json = json_stringn(text.len > 0 ? (const char *)text.ptr : "", text.len);
    return json != NULL ? json : json_string(""); /* what isn't UTF-8 */
}

static json_t *nodes_json(struct span list)
{
    json_t *nodes = json_array();
    struct rec_report_node n;
    while (rec_next_report_node(&list, &n) == ERR_OK) {
        json_t *node = json_pack(
            "{s:I, s:o, s:o, s:o, s:b, s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
            "s:I, s:o}",
            "node", (json_int_t)n.node, "name", text_json(n.name), "address", text_json(n.address),
            "version", text_json(n.version), "self", n.self, "alive", n.alive, "health",
            n.boot != 0 ? view_health_name(n.health) : "unknown", "boot", (json_int_t)n.boot,
            "started_ms", (json_int_t)n.age_ms, "since_ms", (json_int_t)n.since_ms, "silent_ms",
            (json_int_t)n.silent_ms, "rtt_us", (json_int_t)n.rtt_us, "buckets",
            (json_int_t)n.replicas, "leads", (json_int_t)n.leads, "load", (json_int_t)n.load,
            "bytes_in", (json_int_t)n.bytes_in, "bytes_out", (json_int_t)n.bytes_out,
            "items_dropped", (json_int_t)n.items_dropped, "found", text_json(n.found));
        ASSERT(node != NULL);
        json_array_append_new(nodes, node);
    }
    return nodes;
}

/* Replicas of one bucket follow one another. */
static json_t *buckets_json(struct span list)
{
    json_t *buckets = json_array(), *bucket = NULL;
    json_int_t number = -1, term = 0;
    struct rec_report_replica r;
    while (rec_next_report_replica(&list, &r) == ERR_OK) {
        if ((json_int_t)r.bucket != number) {
            number = (json_int_t)r.bucket;
            term = 0;
            bucket = json_pack("{s:I, s:n, s:I, s:[]}", "bucket", number, "leader", "term",
                               (json_int_t)0, "replicas");
            ASSERT(bucket != NULL);
            json_array_append_new(buckets, bucket);
        }
        if (r.alive && (json_int_t)r.term > term) {
            term = (json_int_t)r.term;
            json_object_set_new(bucket, "term", json_integer(term));
        }
        if (r.leads)
            json_object_set_new(bucket, "leader", json_integer((json_int_t)r.node));
        json_array_append_new(json_object_get(bucket, "replicas"), replica_json(&r));
    }
    return buckets;
}

static json_t *replica_json(const struct rec_report_replica *r)
{
    json_t *json =
        json_pack("{s:I, s:b, s:s, s:s, s:I, s:b, s:b}", "node", (json_int_t)r->node, "alive",
                  r->alive, "state", r->known ? view_process_name(r->state) : "unknown", "role",
                  r->alive ? view_role_name(r->role) : "unknown", "term", (json_int_t)r->term,
                  "ready", r->alive && r->ready, "damaged", r->damaged);
    ASSERT(json != NULL);
    bool known = r->known && r->last_idx != 0;
    json_object_set_new(json, "commit_idx",
                        known ? json_integer((json_int_t)r->commit_idx) : json_null());
    json_object_set_new(json, "last_idx",
                        known ? json_integer((json_int_t)r->last_idx) : json_null());
    json_object_set_new(json, "lag", known ? json_integer((json_int_t)r->lag) : json_null());
    return json;
}

static json_t *problems_json(struct span list)
{
    json_t *problems = json_array();
    struct rec_report_problem problem;
    while (rec_next_report_problem(&list, &problem) == ERR_OK)
        json_array_append_new(problems, text_json(problem.text));
    return problems;
}
