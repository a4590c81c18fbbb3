/* Nodes, buckets, what is wrong. */
#include "supervisor/cluster_status.h"

#include <stdio.h>

#include "supervisor/table.h"

enum {
    NODE,
    NAME,
    ADDRESS,
    STATE,
    SINCE,
    VERSION,
    RTT,
    BUCKETS,
    LEADS,
    LOAD,
    IN,
    OUT,
    NODE_COLUMNS
};
static const char *const node_titles[NODE_COLUMNS] = {"NODE",  "NAME",       "ADDRESS", "STATE",
                                                      "FOR",   "VERSION",    "RTT",     "BUCKETS",
                                                      "LEADS", "COMMANDS/S", "IN",      "OUT"};
#define NODE_LEFT (1u << NODE | 1u << NAME | 1u << ADDRESS | 1u << STATE | 1u << VERSION)

enum { BUCKET, LEADER, TERM, COMMIT, REPLICAS, BUCKET_COLUMNS };
static const char *const bucket_titles[BUCKET_COLUMNS] = {"BUCKET", "LEADER", "TERM", "COMMIT",
                                                          "REPLICAS"};
#define BUCKET_LEFT (1u << REPLICAS)

static void print_nodes(const json_t *nodes, struct buf *out);
static void fill_node(const json_t *node, char row[NODE_COLUMNS][TABLE_CELL_LEN]);
static void print_buckets(const json_t *buckets, struct buf *out);
static void fill_bucket(const json_t *bucket, char row[BUCKET_COLUMNS][TABLE_CELL_LEN]);
static size_t add_replica(const json_t *replica, const char *gap, char *cell, size_t len);
static void print_problems(const json_t *problems, struct buf *out);

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL && text[0] != '\0' ? text : "-";
}

static long long number_of(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

static bool is_true(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name));
}

void cluster_status_print(const json_t *status, struct buf *out)
{
    buf_printf(out, "cluster %s as node %lld of %lld sees it: %s\n\n", text_of(status, "cluster"),
               number_of(status, "node"), number_of(status, "node_count"),
               text_of(status, "state"));
    print_nodes(json_object_get(status, "nodes"), out);
    buf_printf(out, "\n");
    print_buckets(json_object_get(status, "buckets"), out);
    buf_printf(out, "\n");
    print_problems(json_object_get(status, "problems"), out);
}

static void print_nodes(const json_t *nodes, struct buf *out)
{
    struct table table;
    table_init(&table, node_titles, NODE_COLUMNS, NODE_LEFT);
    for (size_t i = 0; i < json_array_size(nodes); i++)
        fill_node(json_array_get(nodes, i), table_row(&table));
    table_print(&table, out);
    table_release(&table);
}

static void fill_node(const json_t *node, char row[NODE_COLUMNS][TABLE_CELL_LEN])
{
    bool alive = is_true(node, "alive");
    bool heard = number_of(node, "boot") != 0;
    snprintf(row[NODE], TABLE_CELL_LEN, "%lld%s", number_of(node, "node"),
             is_true(node, "self") ? " (here)" : "");
    snprintf(row[NAME], TABLE_CELL_LEN, "%s", text_of(node, "name"));
    snprintf(row[ADDRESS], TABLE_CELL_LEN, "%s%s", text_of(node, "address"),
             strcmp(text_of(node, "found"), "mdns") == 0 ? " (mdns)" : "");
    snprintf(row[STATE], TABLE_CELL_LEN, "%s",
             alive   ? text_of(node, "health")
             : heard ? "away"
                     : "never heard");
    table_duration(row[SINCE], number_of(node, "since_ms"));
    snprintf(row[VERSION], TABLE_CELL_LEN, "%s", text_of(node, "version"));
    if (number_of(node, "rtt_us") != 0)
        snprintf(row[RTT], TABLE_CELL_LEN, "%.2f ms", (double)number_of(node, "rtt_us") / 1000);
    snprintf(row[BUCKETS], TABLE_CELL_LEN, "%lld", number_of(node, "buckets"));
    snprintf(row[LEADS], TABLE_CELL_LEN, "%lld", number_of(node, "leads"));
    if (alive)
        snprintf(row[LOAD], TABLE_CELL_LEN, "%lld", number_of(node, "load"));
    table_bytes(row[IN], number_of(node, "bytes_in"));
    table_bytes(row[OUT], number_of(node, "bytes_out"));
}

static void print_buckets(const json_t *buckets, struct buf *out)
{
    struct table table;
    table_init(&table, bucket_titles, BUCKET_COLUMNS, BUCKET_LEFT);
    for (size_t i = 0; i < json_array_size(buckets); i++)
        fill_bucket(json_array_get(buckets, i), table_row(&table));
    table_print(&table, out);
    table_release(&table);
}

/* Replicas stand in the order in which the bucket's leadership is wished at them. */
static void fill_bucket(const json_t *bucket, char row[BUCKET_COLUMNS][TABLE_CELL_LEN])
{
    const json_t *leader = json_object_get(bucket, "leader");
    const json_t *replicas = json_object_get(bucket, "replicas");
    snprintf(row[BUCKET], TABLE_CELL_LEN, "%lld", number_of(bucket, "bucket"));
    if (json_is_integer(leader))
        snprintf(row[LEADER], TABLE_CELL_LEN, "%lld", (long long)json_integer_value(leader));
    snprintf(row[TERM], TABLE_CELL_LEN, "%lld", number_of(bucket, "term"));
    size_t len = 0;
    for (size_t i = 0; i < json_array_size(replicas); i++) {
        const json_t *replica = json_array_get(replicas, i);
        const json_t *commit = json_object_get(replica, "commit_idx");
        bool leads =
            json_is_integer(leader) && json_integer_value(leader) == number_of(replica, "node");
        if (leads && json_is_integer(commit))
            snprintf(row[COMMIT], TABLE_CELL_LEN, "%lld", (long long)json_integer_value(commit));
        len += add_replica(replica, i > 0 ? ", " : "", row[REPLICAS] + len, TABLE_CELL_LEN - len);
    }
}

/* "2", "2 (starting)", "2 (15 behind)". */
static size_t add_replica(const json_t *replica, const char *gap, char *cell, size_t len)
{
    char what[48] = "";
    if (!is_true(replica, "alive"))
        snprintf(what, sizeof what, " (%.40s)",
                 strcmp(text_of(replica, "state"), "up") == 0 ? "away" : text_of(replica, "state"));
    else if (is_true(replica, "damaged"))
        snprintf(what, sizeof what, " (damaged)");
    else if (number_of(replica, "lag") > 0)
        snprintf(what, sizeof what, " (%lld behind)", number_of(replica, "lag"));
    else if (!is_true(replica, "ready"))
        snprintf(what, sizeof what, " (not ready)");
    int written = snprintf(cell, len, "%s%lld%s", gap, number_of(replica, "node"), what);
    return written < (int)len ? (size_t)written : len - 1;
}

static void print_problems(const json_t *problems, struct buf *out)
{
    for (size_t i = 0; i < json_array_size(problems); i++)
        buf_printf(out, "! %s\n", json_string_value(json_array_get(problems, i)));
    if (json_array_size(problems) == 0)
        buf_printf(out, "nothing is wrong\n");
}
