/* A simulated process with its disk: the real bucket core behind a simulated env. Its jobs run
 * as fibers on a pool of a few threads; it dies at a chosen disk operation, at a chosen time, by
 * its own decision (env->fatal), or ends orderly. Everything that it sends is shown to its owner
 * at the moment it leaves the process. */
#pragma once

#include "bucketd/core/bucket.h"
#include "tests/sim/disk.h"
#include "tests/sim/fiber.h"
#include "tests/sim/sched.h"

#define NODE_LINKS_MAX 8u
#define NODE_JOBS_MAX  1024u

enum node_end { NODE_KILLED, NODE_POWER_CUT, NODE_STOPPED };

/* Chances in a million for each disk operation, and what latencies are like. */
struct node_faults {
    uint64_t read_error, write_error, sync_error, other_error;
    uint64_t latency_ns_min, latency_ns_max, sync_ns_min, sync_ns_max;
    unsigned threads;       /* of the pool */
};

struct node_callbacks {
    void *ctx;
    /* Messages that leave now on this link. The bytes are valid during the call. */
    void (*on_frame)(void *ctx, uint32_t link, struct span frame);
    /* The process has ended; the disk has taken its losses. */
    void (*on_end)(void *ctx, enum node_end end);
};

struct node_counters {
    uint64_t disk_ops, starts, power_cuts, kills, fatals, stops, io_errors, recovery_deaths;
};

struct node {
    struct env env;
    struct log log;
    struct sched *sched;
    struct trace *trace;
    struct prng prng;           /* faults and latencies */
    struct prng core_prng;      /* what the core asks for */
    struct sim_disk *disk;
    struct bucket_config config;
    struct bucket *bucket;      /* NULL: not running */
    struct node_faults faults;
    struct node_callbacks callbacks;
    uint64_t incarnation;
    bool dead, stopping, in_turn;
    enum node_end end;
    uint64_t crash_in_ops;      /* dies at this operation from now on; 0 = not by count */
    enum node_end crash_end;
    uint64_t power_keep;        /* chance of an unsynced piece to survive a power cut */
    uint64_t wake_ns;
    uint64_t recovery_ns;       /* virtual time that recovery took so far */
    bool read_errors_seen;      /* in this incarnation: an I/O error was injected into a read */
    struct fiber_job *jobs[NODE_JOBS_MAX]; /* waiting and running, in order of submission */
    unsigned job_count, running;
    struct fiber_job *current;
    struct node_link {
        uint32_t id;
        struct buf outbox;
    } links[NODE_LINKS_MAX];
    unsigned link_count;
    struct node_counters counters;
};

void node_init(struct node *node, struct sched *sched, struct trace *trace, struct prng *seed,
               const struct bucket_config *config, const struct node_callbacks *callbacks);
void node_release(struct node *node);

/* Starts the process: recovery. ERR_OK: it runs. Otherwise it ended again (on_end was called, if
 * it had died) or refuses to start, with the error. */
enum err node_start(struct node *node);
void node_add_link(struct node *node, uint32_t link);
void node_lose_link(struct node *node, uint32_t link);
/* A turn with these messages. */
void node_deliver(struct node *node, uint32_t link, struct span frame);
/* Ends it now. */
void node_die(struct node *node, enum node_end end);
/* Asks it to stop; it ends (NODE_STOPPED) when it is idle. */
void node_stop(struct node *node);
