/* meta.json, by jansson. */
#include "supervisor/meta.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "bucketd/core/format.h"
#include "common/assert.h"
#include "supervisor/datadir.h"

#define NEVER "It can't change afterwards"
#define NOT_YET                                                                                    \
    "It can't change yet: buckets would have to move between nodes, which this version can't do"

static enum err create_meta(const struct config *config, struct uuid *ret_cluster_id,
                            struct buf *error);
static struct uuid make_cluster_id(const struct config *config);
static enum err check_meta(const json_t *meta, const char *path, const struct config *config,
                           struct uuid *ret_cluster_id, struct buf *error);
static enum err check_cluster(const json_t *meta, const char *path, const struct config *config,
                              const struct uuid *id, struct buf *error);
static enum err check_number(const json_t *meta, const char *path, const char *section,
                             const char *name, uint64_t configured, const char *reason,
                             struct buf *error);

enum err meta_open(const struct config *config, struct uuid *ret_cluster_id, struct buf *error)
{
    struct buf path = {0}, buckets = {0};
    buf_printf(&path, "%s/meta.json", config->dir);
    buf_append_zeros(&path, 1);
    buf_printf(&buckets, "%s/buckets", config->dir);
    buf_append_zeros(&buckets, 1);
    const char *name = (char *)path.ptr;
    enum err err;
    if (access(name, F_OK) == 0) {
        json_error_t problem;
        json_t *meta = json_load_file(name, JSON_REJECT_DUPLICATES, &problem);
        if (meta == NULL) {
            buf_printf(error, "%s:%d: %s\n", name, problem.line, problem.text);
            err = ERR_CORRUPT;
        } else {
            err = check_meta(meta, name, config, ret_cluster_id, error);
        }
        json_decref(meta);
    } else if (errno != ENOENT) {
        buf_printf(error, "%s: %s\n", name, strerror(errno));
        err = ERR_IO;
    } else if (access((char *)buckets.ptr, F_OK) == 0) {
        buf_printf(error, "%s is missing, but %s exists: restore the file from a backup\n", name,
                   (char *)buckets.ptr);
        err = ERR_CORRUPT;
    } else {
        err = create_meta(config, ret_cluster_id, error);
    }
    buf_release(&path);
    buf_release(&buckets);
    return err;
}

static enum err create_meta(const struct config *config, struct uuid *ret_cluster_id,
                            struct buf *error)
{
    struct uuid id = make_cluster_id(config);
    char id_text[UUID_TEXT_LEN], created[32];
    uuid_format(&id, id_text);
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_t *meta = json_pack(
        "{s:i, s:s%, s:s, s:{s:I}, s:{s:I}, s:{s:I, s:I}, s:{s:I}}", "format", (int)FORMAT_VERSION,
        "cluster_id", id_text, (size_t)UUID_TEXT_LEN, "created", created, "bucket", "count",
        (json_int_t)config->bucket.count, "partition", "count", (json_int_t)config->partition.count,
        "node", "count", (json_int_t)config->node.count, "index", (json_int_t)config->node.index,
        "replication", "factor", (json_int_t)config->replication.factor);
    ASSERT(meta != NULL);
    if (config->node.count > 1)
        json_object_set_new(meta, "cluster", json_pack("{s:s}", "name", config->cluster.name));
    char *text = json_dumps(meta, JSON_INDENT(2));
    ASSERT(text != NULL);
    struct buf content = {0};
    buf_printf(&content, "%s\n", text);
    enum err err = datadir_write_file(config->dir, "meta.json", buf_span(&content), error);
    buf_release(&content);
    free(text);
    json_decref(meta);
    if (err == ERR_OK)
        *ret_cluster_id = id;
    return err;
}

/* The nodes of a cluster come to the same id without asking each other. */
static struct uuid make_cluster_id(const struct config *config)
{
    if (config->node.count > 1)
        return uuid_of_cluster(span_str(config->cluster.name));
    uint8_t random[16];
    ASSERT(getrandom(random, sizeof random, 0) == sizeof random);
    return uuid_random(random);
}

static enum err check_meta(const json_t *meta, const char *path, const struct config *config,
                           struct uuid *ret_cluster_id, struct buf *error)
{
    json_int_t format = json_integer_value(json_object_get(meta, "format"));
    if (format != FORMAT_VERSION) {
        buf_printf(error, "%s: format is %lld, this version of sierradb reads format %u\n", path,
                   (long long)format, FORMAT_VERSION);
        return ERR_CONFIG;
    }
    const char *id = json_string_value(json_object_get(meta, "cluster_id"));
    struct uuid cluster_id;
    if (id == NULL || !uuid_parse(span_str(id), &cluster_id)) {
        buf_printf(error, "%s: cluster_id: expected a UUID\n", path);
        return ERR_CORRUPT;
    }
    enum err err = check_number(meta, path, "bucket", "count", config->bucket.count, NEVER, error);
    if (err == ERR_OK)
        err = check_number(meta, path, "partition", "count", config->partition.count, NEVER, error);
    if (err == ERR_OK)
        err = check_number(meta, path, "node", "count", config->node.count, NOT_YET, error);
    if (err == ERR_OK && config->node.count > 1)
        err = check_cluster(meta, path, config, &cluster_id, error);
    if (err == ERR_OK)
        err = check_number(meta, path, "node", "index", config->node.index, NEVER, error);
    /* Directories of single nodes from before there were others don't name it. */
    if (err == ERR_OK && json_object_get(meta, "replication") != NULL)
        err = check_number(meta, path, "replication", "factor", config->replication.factor, NOT_YET,
                           error);
    if (err == ERR_OK)
        *ret_cluster_id = cluster_id;
    return err;
}

static enum err check_cluster(const json_t *meta, const char *path, const struct config *config,
                              const struct uuid *id, struct buf *error)
{
    struct uuid configured = uuid_of_cluster(span_str(config->cluster.name));
    const char *name = json_string_value(json_object_get(json_object_get(meta, "cluster"), "name"));
    if (uuid_equal(&configured, id))
        return ERR_OK;
    buf_printf(error,
               "cluster.name is '%s' in the configuration, but this data directory belongs to the "
               "cluster '%s' (%s).\n%s, or use another directory.\n",
               config->cluster.name, name != NULL ? name : "", path, NEVER);
    return ERR_CONFIG;
}

static enum err check_number(const json_t *meta, const char *path, const char *section,
                             const char *name, uint64_t configured, const char *reason,
                             struct buf *error)
{
    const json_t *value = json_object_get(json_object_get(meta, section), name);
    if (!json_is_integer(value)) {
        buf_printf(error, "%s: %s.%s: expected a number\n", path, section, name);
        return ERR_CORRUPT;
    }
    if ((uint64_t)json_integer_value(value) == configured)
        return ERR_OK;
    buf_printf(error,
               "%s.%s is %lu in the configuration, but this data directory was created with %lld "
               "(%s).\n%s: configure %s.%s %lld, or use another directory.\n",
               section, name, configured, (long long)json_integer_value(value), path, reason,
               section, name, (long long)json_integer_value(value));
    return ERR_CONFIG;
}
