/* Configuration: one checked struct from defaults, file (YAML or JSON), environment
 * (SIERRADB_<SECTION>_<KEY>) and command line, in that order, later ones win (WIRE.md,
 * configuration). An entry of the file's `nodes`, picked by node.index in config_finish, stands
 * between the file and the environment.
 *
 * Every key is one row of config.def: its section and name, type, default, bounds, and the
 * sentence that `sierradb --help-config` prints. An unknown key, a wrong type or a value out of
 * range is an error that names the file, the line, the key and what was expected. */
#pragma once

#include "common/buf.h"
#include "common/err.h"
#include "common/log.h"

struct config_memory;

/* A name (or a literal address, without brackets) and a port. */
struct config_peer {
    char *host;
    uint16_t port;
};

struct config_peers {
    struct config_peer *list;
    unsigned count;
};

struct config {
    /* config.c: where values came from, overrides not yet applied */
    struct config_memory *memory;
    char *dir;                            /* absolute */
    char *run_dir;                        /* absolute; default <dir>/run */
    char *log_level;

    struct { bool strict_versioning; uint64_t max_event_bytes, max_transaction_bytes; } append;
    struct { uint32_t count; uint32_t *ids; unsigned ids_count; } bucket; /* ids_count 0: all */
    struct { uint64_t capacity_bytes, index_capacity_bytes; } cache;
    struct {
        char *name;
        char *secret;                     /* given, or read from secret_file; may be empty */
        char *secret_file;
        bool balance_leaders;
    } cluster;
    struct { uint64_t interval_ms, timeout_ms; } heartbeat;
    struct {
        bool cluster_enabled, mdns;
        char *client_address, *cluster_address;
        struct config_peers peers;        /* by node.index */
        char *default_protocol;           /* auto, 2, 3 */
        char *password;                   /* empty: no AUTH needed */
        uint64_t max_clients;
        uint64_t output_buffer_bytes;     /* a client's unread replies */
        uint64_t reply_bytes;             /* a scan's reply is cut here; default 8 MiB */
        uint64_t subscription_window;     /* default 1000 */
        /* a request waits so long for its bucket; default 30000 */
        uint64_t request_timeout_ms;
        /* credit: appends on their way to one bucket; default 4 MiB */
        uint64_t bucket_inflight_bytes;
        /* waiting in netd for one bucket, then clients aren't read; default 16 MiB */
        uint64_t bucket_queue_bytes;
    } network;
    struct { uint32_t count, index; } node;
    struct { uint32_t count; uint32_t *ids; unsigned ids_count; } partition; /* ids_count 0: all */
    struct {
        uint32_t factor;
        uint64_t buffer_size, buffer_timeout_ms, catchup_timeout_ms;
        uint64_t tick_ms, election_timeout_ms, stale_after_ms;
        uint64_t uncommitted_bytes;
    } replication;
    struct { uint64_t size_bytes; bool compression; } segment;
    struct { uint64_t interval_ms, max_batch_size, min_bytes; } sync;
    struct { uint32_t read, write; } threads;
    struct {
        uint64_t restart_backoff_ms_max;
        uint32_t crash_limit;
        uint64_t stop_timeout_ms;
    } supervisor;
};

/* Fills in defaults. */
void config_init(struct config *config);
void config_release(struct config *config);

/* Each writes a readable message to *error (may span lines) and returns ERR_CONFIG where
 * something is wrong. */
enum err config_load_file(struct config *config, const char *path, struct buf *error) MUST_CHECK;
/* All SIERRADB_* variables of envp. */
enum err config_load_env(struct config *config, char *const envp[], struct buf *error) MUST_CHECK;
/* One key by its dotted name ("segment.size_bytes"), value as text. `source` is named in the
 * error. */
enum err config_set(struct config *config, const char *key, const char *value, const char *source,
                    struct buf *error) MUST_CHECK;
/* Makes paths absolute, reads cluster.secret_file and checks relations between keys (bucket.count a
 * power of two, <= partition.count, ...). */
enum err config_finish(struct config *config, struct buf *error) MUST_CHECK;

/* The whole resolved configuration as YAML, as the supervisor hands it to its children, secrets
 * included; and back. */
void config_print(const struct config *config, struct buf *out);
/* The same to be shown: (hidden) in place of secrets that are set. */
void config_print_shown(const struct config *config, struct buf *out);
enum err config_parse(struct config *config, struct span text, const char *source,
                      struct buf *error) MUST_CHECK;
/* "host:port", an IPv6 address in brackets. */
void config_print_peer(const struct config_peer *peer, struct buf *out);
/* A table of all keys: name, type, default, bounds, meaning. */
void config_print_help(struct buf *out);
