/* Who leads, who lags, what is wrong. */
#include "netd/cluster_view.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"
#include "common/placement.h"

/* So many problems are told one by one. */
#define PROBLEMS_MAX 50u
#define NAME_LEN     300u /* a host's name, its port, parentheses */

static void finish_bucket(struct cluster_view *view, struct view_bucket *bucket);
static void find_leader(struct cluster_view *view, struct view_bucket *bucket);
static void find_node_problems(struct cluster_view *view);
static void find_bucket_problems(struct cluster_view *view, uint32_t index);
static void find_replica_problems(struct cluster_view *view, const struct rec_report_replica *r);
static void add_problem(struct cluster_view *view, enum view_state state, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void pack_problem(struct cluster_view *view, const char *text);

void view_init(struct cluster_view *view, uint32_t node_count, uint32_t bucket_count,
               uint32_t factor)
{
    *view = (struct cluster_view){.node_count = node_count, .bucket_count = bucket_count};
    view->nodes = calloc(node_count, sizeof *view->nodes);
    view->buckets = calloc(bucket_count, sizeof *view->buckets);
    view->replicas = calloc((size_t)bucket_count * factor, sizeof *view->replicas);
    ASSERT(view->nodes != NULL && view->buckets != NULL && view->replicas != NULL);
    for (uint32_t i = 0; i < node_count; i++)
        view->nodes[i].node = i;
    for (uint32_t i = 0; i < bucket_count; i++) {
        uint32_t nodes[REPLICAS_MAX];
        struct view_bucket *bucket = &view->buckets[i];
        *bucket = (struct view_bucket){.first = view->replica_count, .leader = VIEW_NONE};
        bucket->count = placement_replicas(i, node_count, factor, nodes);
        for (uint32_t k = 0; k < bucket->count; k++)
            view->replicas[view->replica_count++] =
                (struct rec_report_replica){.bucket = i, .node = nodes[k]};
    }
}

void view_release(struct cluster_view *view)
{
    free(view->nodes);
    free(view->buckets);
    free(view->replicas);
    buf_release(&view->problems);
    *view = (struct cluster_view){0};
}

struct rec_report_replica *view_replica(struct cluster_view *view, uint64_t bucket, uint64_t node)
{
    if (bucket >= view->bucket_count)
        return NULL;
    const struct view_bucket *b = &view->buckets[bucket];
    for (uint32_t i = b->first; i < b->first + b->count; i++) {
        if (view->replicas[i].node == node)
            return &view->replicas[i];
    }
    return NULL;
}

void view_hear(struct cluster_view *view, uint64_t node, const struct rec_gossip_bucket *heard)
{
    struct rec_report_replica *r = view_replica(view, heard->bucket, node);
    if (r == NULL)
        return;
    r->known = true;
    r->state = heard->state;
    r->role = heard->role;
    r->term = heard->term;
    r->leader = heard->leader;
    r->commit_idx = heard->commit_idx;
    r->last_idx = heard->last_idx;
    r->ready = heard->ready;
    r->damaged = heard->damaged;
}

void view_finish(struct cluster_view *view)
{
    for (uint32_t i = 0; i < view->node_count; i++)
        view->nodes_alive += view->nodes[i].alive;
    for (uint32_t i = 0; i < view->bucket_count; i++)
        finish_bucket(view, &view->buckets[i]);
    find_node_problems(view);
    for (uint32_t i = 0; i < view->bucket_count; i++)
        find_bucket_problems(view, i);
    if (view->problem_count > PROBLEMS_MAX) {
        char text[64];
        snprintf(text, sizeof text, "and %u problems more", view->problem_count - PROBLEMS_MAX);
        pack_problem(view, text);
    }
}

static void finish_bucket(struct cluster_view *view, struct view_bucket *bucket)
{
    for (uint32_t i = bucket->first; i < bucket->first + bucket->count; i++) {
        struct rec_report_replica *r = &view->replicas[i];
        r->alive = r->known && r->state == BUCKET_UP && view->nodes[r->node].alive;
        bucket->alive += r->alive;
        view->nodes[r->node].replicas++;
    }
    find_leader(view, bucket);
    if (bucket->leader == VIEW_NONE)
        return;
    struct rec_report_replica *leader = &view->replicas[bucket->leader];
    leader->leads = true;
    view->buckets_led++;
    view->nodes[leader->node].leads++;
    for (uint32_t i = bucket->first; i < bucket->first + bucket->count; i++) {
        struct rec_report_replica *r = &view->replicas[i];
        if (r->known && r->commit_idx < leader->commit_idx)
            r->lag = leader->commit_idx - r->commit_idx;
    }
}

/* The one of the highest term that anybody who lives knows of. It may be known by others before its
 * own gossip says so. */
static void find_leader(struct cluster_view *view, struct view_bucket *bucket)
{
    uint64_t leader = 0;
    for (uint32_t i = bucket->first; i < bucket->first + bucket->count; i++) {
        const struct rec_report_replica *r = &view->replicas[i];
        if (!r->alive)
            continue;
        uint64_t its = r->role == VIEW_LEADER ? r->node + 1 : r->leader;
        if (r->term > bucket->term || (r->term == bucket->term && leader == 0)) {
            bucket->term = r->term;
            leader = its;
        }
    }
    for (uint32_t i = bucket->first; leader != 0 && i < bucket->first + bucket->count; i++) {
        if (view->replicas[i].node + 1 == leader && view->replicas[i].alive)
            bucket->leader = i;
    }
}

/* --- What is wrong --- */

/* " (host:port)"; nothing where it has no name. */
static void print_name(const struct rec_report_node *node, char to[static NAME_LEN])
{
    to[0] = '\0';
    if (node->name.len > 0)
        snprintf(to, NAME_LEN, " (%.*s)", (int)node->name.len, (const char *)node->name.ptr);
}

static void find_node_problems(struct cluster_view *view)
{
    for (uint32_t i = 0; i < view->node_count; i++) {
        const struct rec_report_node *node = &view->nodes[i];
        char name[NAME_LEN];
        print_name(node, name);
        if (!node->alive && node->boot == 0)
            add_problem(view, VIEW_DEGRADED, "node %u%s was never heard", i, name);
        else if (!node->alive)
            add_problem(view, VIEW_DEGRADED, "node %u%s is away for %lu.%lu s", i, name,
                        node->since_ms / 1000, node->since_ms % 1000 / 100);
        else if (node->health == NODE_STOPPING)
            add_problem(view, VIEW_DEGRADED, "node %u%s is stopping", i, name);
    }
}

static void find_bucket_problems(struct cluster_view *view, uint32_t index)
{
    const struct view_bucket *bucket = &view->buckets[index];
    uint32_t quorum = bucket->count / 2 + 1;
    if (bucket->alive < quorum)
        add_problem(view, VIEW_UNAVAILABLE,
                    "bucket %u takes no appends: %u of its %u replicas are up, %u are needed",
                    index, bucket->alive, bucket->count, quorum);
    else if (bucket->leader == VIEW_NONE)
        add_problem(view, VIEW_UNAVAILABLE, "bucket %u has no leader", index);
    for (uint32_t i = bucket->first; i < bucket->first + bucket->count; i++)
        find_replica_problems(view, &view->replicas[i]);
}

/* Of a node that is away nothing more is said. */
static void find_replica_problems(struct cluster_view *view, const struct rec_report_replica *r)
{
    if (!view->nodes[r->node].alive)
        return;
    if (!r->alive)
        add_problem(view, VIEW_DEGRADED, "bucket %lu: its process on node %lu is %s", r->bucket,
                    r->node, r->known ? view_process_name(r->state) : "not heard of yet");
    else if (r->damaged)
        add_problem(view, VIEW_DEGRADED,
                    "bucket %lu: the log on node %lu is damaged and waits for repair", r->bucket,
                    r->node);
    else if (!r->ready)
        add_problem(view, VIEW_DEGRADED,
                    "bucket %lu: the replica on node %lu isn't up to date (%lu entries behind)",
                    r->bucket, r->node, r->lag);
}

static void add_problem(struct cluster_view *view, enum view_state state, const char *format, ...)
{
    if (state > view->state)
        view->state = state;
    if (view->problem_count++ >= PROBLEMS_MAX)
        return;
    char text[320];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    pack_problem(view, text);
}

static void pack_problem(struct cluster_view *view, const char *text)
{
    rec_pack_report_problem(&view->problems, &(struct rec_report_problem){.text = span_str(text)});
}

/* --- Names --- */

static const char *name_of(const char *const names[], uint64_t count, uint64_t value)
{
    return value < count ? names[value] : "unknown";
}

const char *view_state_name(enum view_state state)
{
    static const char *const names[] = {"ok", "degraded", "unavailable"};
    return name_of(names, 3, state);
}

const char *view_role_name(uint64_t role)
{
    static const char *const names[] = {"follower", "candidate", "leader"};
    return name_of(names, 3, role);
}

const char *view_health_name(uint64_t health)
{
    static const char *const names[] = {"healthy", "degraded", "stopping"};
    return name_of(names, 3, health);
}

const char *view_process_name(uint64_t state)
{
    static const char *const names[] = {"starting", "up", "down"};
    return name_of(names, 3, state);
}
