/* Configuration: what values may stand together, and the secret that comes from a file. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/config_keys.h"
#include "common/limits.h"

/* Less could be found by trying, from one recorded frame. */
#define SECRET_LEN_MIN        16u
#define SECRET_FILE_BYTES_MAX 4096u

static enum err read_secret_file(int fd, struct config *config, struct buf *error);
static enum err check_topology(const struct config *config, struct buf *error);
static enum err check_cluster(const struct config *config, struct buf *error);
static enum err check_times(const struct config *config, struct buf *error);
static enum err check_ids(const struct config *config, const char *section, const uint32_t *ids,
                          unsigned count, uint32_t bound, struct buf *error);
static enum err bound_by_segment(struct config *config, const char *name, uint64_t *bytes,
                                 struct buf *error);

enum err config_check(struct config *config, struct buf *error)
{
    enum err err = check_topology(config, error);
    if (err == ERR_OK)
        err = check_cluster(config, error);
    if (err == ERR_OK)
        err = check_times(config, error);
    if (err == ERR_OK)
        err = bound_by_segment(config, "max_event_bytes", &config->append.max_event_bytes, error);
    if (err == ERR_OK)
        err = bound_by_segment(config, "max_transaction_bytes",
                               &config->append.max_transaction_bytes, error);
    if (err == ERR_OK && config->append.max_event_bytes > config->append.max_transaction_bytes)
        return config_refuse(config, error, "append", "max_transaction_bytes",
                             "at least append.max_event_bytes (%lu), got %lu",
                             config->append.max_event_bytes, config->append.max_transaction_bytes);
    return err;
}

enum err config_read_secret(struct config *config, struct buf *error)
{
    const char *path = config->cluster.secret_file;
    if (config->cluster.secret[0] != '\0' || path[0] == '\0')
        return ERR_OK;
    /* Without blocking: the path may be that of a FIFO, which isn't read. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return config_refuse(config, error, "cluster", "secret_file",
                             "a file with the cluster's secret, got '%.150s': %s", path,
                             strerror(errno));
    enum err err = read_secret_file(fd, config, error);
    close(fd);
    return err;
}

static enum err read_secret_file(int fd, struct config *config, struct buf *error)
{
    const char *path = config->cluster.secret_file;
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return config_refuse(config, error, "cluster", "secret_file",
                             "a regular file, got '%.150s'", path);
    if ((status.st_mode & 027) != 0)
        return config_refuse(config, error, "cluster", "secret_file",
                             "a file that nobody else may use (chmod 600), got mode %03o of "
                             "'%.150s'",
                             status.st_mode & 0777u, path);
    char text[SECRET_FILE_BYTES_MAX + 1];
    ssize_t len = read(fd, text, sizeof text);
    while (len > 0 && (size_t)len < sizeof text && strchr(" \t\r\n", text[len - 1]) != NULL)
        len--;
    bool valid = len > 0 && (size_t)len < sizeof text && memchr(text, '\0', (size_t)len) == NULL;
    if (valid) {
        text[len] = '\0';
        valid = config_text_valid(text);
    }
    enum err err = ERR_OK;
    if (!valid) {
        err = config_refuse(config, error, "cluster", "secret_file",
                            "one line of UTF-8 text, at most %u bytes, in '%.150s'",
                            SECRET_FILE_BYTES_MAX, path);
    } else {
        free(config->cluster.secret);
        config->cluster.secret = strdup(text);
        ASSERT(config->cluster.secret != NULL);
    }
    explicit_bzero(text, sizeof text);
    return err;
}

static enum err check_topology(const struct config *config, struct buf *error)
{
    uint32_t buckets = config->bucket.count;
    uint32_t partitions = config->partition.count;
    uint32_t nodes = config->node.count;
    if ((buckets & (buckets - 1)) != 0)
        return config_refuse(config, error, "bucket", "count", "a power of two, got %u", buckets);
    if (partitions < buckets)
        return config_refuse(config, error, "bucket", "count",
                             "at most partition.count (%u), got %u", partitions, buckets);
    if (partitions < nodes)
        return config_refuse(config, error, "partition", "count",
                             "at least node.count (%u), got %u", nodes, partitions);
    if (config->node.index >= nodes)
        return config_refuse(config, error, "node", "index", "less than node.count (%u), got %u",
                             nodes, config->node.index);
    if (nodes > 1 && !config->network.cluster_enabled)
        return config_refuse(config, error, "network", "cluster_enabled",
                             "true where node.count is above 1 (it is %u), got false", nodes);
    if (config->replication.factor > nodes)
        return config_refuse(config, error, "replication", "factor",
                             "at most node.count (%u), got %u", nodes, config->replication.factor);
    if (config->partition.ids_count > 0 && config->partition.ids_count != partitions)
        return config_refuse(config, error, "partition", "ids",
                             "all of the %u partitions, each once, got %u", partitions,
                             config->partition.ids_count);
    enum err err =
        check_ids(config, "bucket", config->bucket.ids, config->bucket.ids_count, buckets, error);
    if (err == ERR_OK)
        err = check_ids(config, "partition", config->partition.ids, config->partition.ids_count,
                        partitions, error);
    return err;
}

static enum err check_cluster(const struct config *config, struct buf *error)
{
    uint32_t nodes = config->node.count;
    unsigned peers = config->network.peers.count;
    const char *secret = config->cluster.secret;
    if (config->cluster.name[0] == '\0')
        return config_refuse(config, error, "cluster", "name", "a name, got nothing");
    bool found = peers == 0 && config->network.mdns;
    if ((nodes > 1 && peers != nodes && !found) || (nodes == 1 && peers > 1))
        return config_refuse(config, error, "network", "peers",
                             "node.count (%u) entries, one for each node in the order of "
                             "node.index, got %u%s",
                             nodes, peers, peers == 0 ? "; or network.mdns true" : "");
    if (secret[0] != '\0' && strlen(secret) < SECRET_LEN_MIN)
        return config_refuse(config, error, "cluster", "secret",
                             "%u characters at least, got %zu: `openssl rand -hex 32` makes a good "
                             "one",
                             SECRET_LEN_MIN, strlen(secret));
    if (nodes > 1 && secret[0] == '\0')
        return config_refuse(config, error, "cluster", "secret",
                             "a secret that all nodes share, where node.count is above 1 (it is "
                             "%u), got none: give cluster.secret_file (or "
                             "SIERRADB_CLUSTER_SECRET)",
                             nodes);
    return ERR_OK;
}

static enum err check_times(const struct config *config, struct buf *error)
{
    if (config->heartbeat.timeout_ms <= config->heartbeat.interval_ms)
        return config_refuse(config, error, "heartbeat", "timeout_ms",
                             "more than heartbeat.interval_ms (%lu), got %lu",
                             config->heartbeat.interval_ms, config->heartbeat.timeout_ms);
    if (config->replication.election_timeout_ms < 3 * config->replication.tick_ms)
        return config_refuse(config, error, "replication", "election_timeout_ms",
                             "at least 3 times replication.tick_ms (%lu), got %lu",
                             config->replication.tick_ms, config->replication.election_timeout_ms);
    if (config->replication.stale_after_ms < config->replication.election_timeout_ms)
        return config_refuse(config, error, "replication", "stale_after_ms",
                             "at least replication.election_timeout_ms (%lu), got %lu",
                             config->replication.election_timeout_ms,
                             config->replication.stale_after_ms);
    return ERR_OK;
}

static enum err check_ids(const struct config *config, const char *section, const uint32_t *ids,
                          unsigned count, uint32_t bound, struct buf *error)
{
    for (unsigned i = 0; i < count; i++) {
        if (ids[i] >= bound)
            return config_refuse(config, error, section, "ids",
                                 "numbers less than %s.count (%u), got %u", section, bound, ids[i]);
    }
    return ERR_OK;
}

/* A transaction must fit a segment with room to spare: a default gives way, a chosen value is an
 * error. */
static enum err bound_by_segment(struct config *config, const char *name, uint64_t *bytes,
                                 struct buf *error)
{
    uint64_t bound = config->segment.size_bytes / 4;
    if (*bytes <= bound)
        return ERR_OK;
    if (config_origin_of(config, "append", name) != ORIGIN_DEFAULT)
        return config_refuse(config, error, "append", name,
                             "at most a quarter of segment.size_bytes (%lu), got %lu", bound,
                             *bytes);
    *bytes = bound;
    return ERR_OK;
}

/* "FILE:LINE: key: expected ..." where the key was given; else without the place. */
enum err config_refuse(const struct config *config, struct buf *error, const char *section,
                       const char *name, const char *format, ...)
{
    const char *where = config_where_of(config, section, name);
    if (where != NULL)
        buf_printf(error, "%s: ", where);
    config_key_print(config_key_find(section, name), error);
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buf_printf(error, ": expected %s\n", text);
    return ERR_CONFIG;
}
