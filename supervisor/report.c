/* What `sierradb status` shows: the core's view of each process, its own statistics, its memory. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/assert.h"
#include "supervisor/node_internal.h"
#include "supervisor/ready.h"

static void add_readiness(const struct node *node, json_t *status);
static enum readiness readiness_of(const struct node *node, unsigned number,
                                   char why[static READY_WHY_LEN]);
static json_t *process_status(const struct node *node, unsigned number);
static void add_replica(const struct node *node, const struct supervised *c, struct span text,
                        json_t *status);
static bool find_stat(struct span text, const char *name, uint64_t *ret_value);
static json_t *stats_object(struct span text);
static uint64_t rss_bytes(int pid);
static double rate(uint64_t now, uint64_t before, uint64_t ms);

void report_on_stats(struct node_child *child, struct span text, uint64_t now_ms)
{
    struct child_stats *stats = &child->stats;
    uint64_t appends = 0, reads = 0;
    find_stat(text, "appends", &appends);
    find_stat(text, "reads", &reads);
    if (stats->answered_ms != 0) {
        uint64_t ms = now_ms - stats->answered_ms;
        stats->appends_per_s = rate(appends, stats->appends, ms);
        stats->reads_per_s = rate(reads, stats->reads, ms);
    }
    stats->appends = appends;
    stats->reads = reads;
    stats->answered_ms = now_ms;
    stats->unanswered_logged = false;
    buf_clear(&stats->text, 4096);
    buf_append_span(&stats->text, text);
}

void report_forget(struct node_child *child)
{
    buf_release(&child->stats.text);
    child->stats = (struct child_stats){0};
}

static double rate(uint64_t now, uint64_t before, uint64_t ms)
{
    return ms == 0 || now < before ? 0 : (double)(now - before) * 1000 / (double)ms;
}

json_t *report_status(const struct node *node)
{
    const struct supervisor *s = &node->supervisor;
    const char *state = s->stopping != STOP_NONE ? "stopping" : "up";
    json_t *processes = json_array();
    ASSERT(processes != NULL);
    json_array_append_new(processes,
                          json_pack("{s:s, s:s, s:i, s:s, s:I, s:i, s:I}", "name", "supervisor",
                                    "kind", "supervisor", "pid", getpid(), "state", state,
                                    "uptime_ms", (json_int_t)(node_now_ms() - node->started_ms),
                                    "restarts", 0, "rss_bytes", (json_int_t)rss_bytes(getpid())));
    for (unsigned i = 0; i < s->count; i++) {
        if (i > 0 && s->children[i].state != CHILD_UP && s->stopping == STOP_NONE)
            state = "degraded";
        json_array_append_new(processes, process_status(node, i));
    }
    if (s->children[0].state != CHILD_UP && s->stopping == STOP_NONE)
        state = "starting";
    char id[UUID_TEXT_LEN];
    uuid_format(&node->cluster_id, id);
    json_t *status = json_pack(
        "{s:b, s:s, s:s, s:s%, s:s, s:s, s:i}", "ok", 1, "version", SIERRADB_VERSION, "state",
        state, "cluster_id", id, (size_t)UUID_TEXT_LEN, "dir", node->config->dir, "client_address",
        node->config->network.client_address, "node", (int)node->config->node.index);
    ASSERT(status != NULL);
    add_readiness(node, status);
    json_object_set_new(status, "processes", processes);
    return status;
}

/* "ready", and in words what it waits for. */
static void add_readiness(const struct node *node, json_t *status)
{
    const struct supervisor *s = &node->supervisor;
    json_t *waits_for = json_array();
    ASSERT(waits_for != NULL);
    char why[READY_WHY_LEN];
    if (s->stopping != STOP_NONE)
        json_array_append_new(waits_for, json_string("the node is stopping"));
    for (unsigned i = 0; i < s->count && s->stopping == STOP_NONE; i++) {
        if (readiness_of(node, i, why) == READY_SOON)
            json_array_append_new(waits_for, json_string(why));
    }
    json_object_set_new(status, "ready", json_boolean(json_array_size(waits_for) == 0));
    json_object_set_new(status, "waits_for", waits_for);
}

static enum readiness readiness_of(const struct node *node, unsigned number,
                                   char why[static READY_WHY_LEN])
{
    const struct supervised *c = &node->supervisor.children[number];
    const struct child_stats *stats = &node->children[number].stats;
    struct span text = buf_span(&stats->text);
    uint64_t level = 0, stale = 0, damaged = 0;
    struct ready_word word = {
        .answers = !stats->unanswered_logged,
        .replicated = c->kind == CHILD_BUCKETD && node->config->node.count > 1,
        .told = find_stat(text, "ready", &level),
    };
    find_stat(text, "stale", &stale);
    find_stat(text, "damaged", &damaged);
    word.level = level != 0;
    word.stale = stale != 0;
    word.damaged = damaged != 0;
    return ready_process(c, &word, why);
}

static json_t *process_status(const struct node *node, unsigned number)
{
    const struct supervised *c = &node->supervisor.children[number];
    const struct node_child *child = &node->children[number];
    char name[24];
    supervised_name(c, name);
    json_t *status =
        json_pack("{s:s, s:s, s:s, s:I, s:i}", "name", name, "kind",
                  c->kind == CHILD_NETD ? "netd" : "bucket", "state", child_state_name(c->state),
                  "boot", (json_int_t)c->boot, "restarts", (int)c->restarts);
    ASSERT(status != NULL);
    if (c->kind == CHILD_BUCKETD) {
        json_object_set_new(status, "index", json_integer(c->index));
        json_object_set_new(status, "link",
                            json_string(c->introduction == INTRODUCTION_UP ? "up" : "down"));
    }
    char why[READY_WHY_LEN];
    bool ready = readiness_of(node, number, why) == READY;
    json_object_set_new(status, "ready", json_boolean(ready));
    if (!ready)
        json_object_set_new(status, "waits_for", json_string(why));
    if (child->process != NULL) {
        int pid = process_pid(child->process);
        json_object_set_new(status, "pid", json_integer(pid));
        json_object_set_new(status, "uptime_ms",
                            json_integer((json_int_t)(node_now_ms() - c->started_ms)));
        json_object_set_new(status, "rss_bytes", json_integer((json_int_t)rss_bytes(pid)));
    }
    if (child->stats.text.len > 0) {
        struct span text = buf_span(&child->stats.text);
        uint64_t events;
        if (c->kind == CHILD_BUCKETD && find_stat(text, "events", &events))
            json_object_set_new(status, "events", json_integer((json_int_t)events));
        if (c->kind == CHILD_BUCKETD && node->config->node.count > 1)
            add_replica(node, c, text, status);
        json_object_set_new(status, "appends_per_s", json_real(child->stats.appends_per_s));
        json_object_set_new(status, "reads_per_s", json_real(child->stats.reads_per_s));
        json_object_set_new(status, "stats", stats_object(text));
    }
    return status;
}

/* Role, term and leader as the bucket says, its lag as netd knows from the others. */
static void add_replica(const struct node *node, const struct supervised *c, struct span text,
                        json_t *status)
{
    json_t *stats = stats_object(text);
    static const char *const names[] = {"role", "term", "leader"};
    for (unsigned i = 0; i < 3; i++) {
        json_t *value = json_object_get(stats, names[i]);
        if (value != NULL)
            json_object_set(status, names[i], value);
    }
    char name[32];
    uint64_t lag;
    snprintf(name, sizeof name, "bucket_%u_lag", c->index);
    if (find_stat(buf_span(&node->children[0].stats.text), name, &lag))
        json_object_set_new(status, "lag", json_integer((json_int_t)lag));
    json_decref(stats);
}

/* Takes the next "name value\n" off *text. */
static bool next_stat(struct span *text, struct span *ret_name, struct span *ret_value)
{
    const uint8_t *end = text->len > 0 ? memchr(text->ptr, '\n', text->len) : NULL;
    if (end == NULL)
        return false;
    struct span line = span_of(text->ptr, (size_t)(end - text->ptr));
    *text = span_of(end + 1, text->len - line.len - 1);
    const uint8_t *space = memchr(line.ptr, ' ', line.len);
    size_t name_len = space != NULL ? (size_t)(space - line.ptr) : line.len;
    *ret_name = span_of(line.ptr, name_len);
    *ret_value = space != NULL ? span_of(space + 1, line.len - name_len - 1) : span_of("", 0);
    return true;
}

static bool find_stat(struct span text, const char *name, uint64_t *ret_value)
{
    struct span key, value;
    while (next_stat(&text, &key, &value)) {
        char number[24] = {0};
        if (!span_equal(key, span_str(name)) || value.len >= sizeof number)
            continue;
        memcpy(number, value.ptr, value.len);
        *ret_value = strtoull(number, NULL, 10);
        return true;
    }
    return false;
}

/* All of them; values that are no numbers as text. */
static json_t *stats_object(struct span text)
{
    json_t *object = json_object();
    ASSERT(object != NULL);
    struct span name, value;
    while (next_stat(&text, &name, &value)) {
        char key[64], number[24] = {0};
        snprintf(key, sizeof key, "%.*s", (int)name.len, (const char *)name.ptr);
        bool numeric = value.len > 0 && value.len < sizeof number;
        for (size_t i = 0; numeric && i < value.len; i++)
            numeric = value.ptr[i] >= '0' && value.ptr[i] <= '9';
        if (numeric) {
            memcpy(number, value.ptr, value.len);
            json_object_set_new(object, key, json_integer(strtoll(number, NULL, 10)));
        } else {
            json_object_set_new(object, key, json_stringn((const char *)value.ptr, value.len));
        }
    }
    return object;
}

static uint64_t rss_bytes(int pid)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = fopen(path, "re");
    unsigned long total, resident = 0;
    if (file == NULL)
        return 0;
    if (fscanf(file, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}
