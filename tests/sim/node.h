/* A simulated process with its disk and clock: the real bucket core behind a simulated env. Its
 * jobs run as fibers on a pool of a few threads; it dies at a chosen disk operation, at the end of
 * a chosen turn, at a chosen time, by its own decision (env->fatal), or ends orderly. It may stand
 * still for a while. Everything that it sends is shown to its owner at the moment it leaves the
 * process. */
#pragma once

#include "bucketd/core/bucket.h"
#include "tests/sim/disk.h"
#include "tests/sim/fiber.h"
#include "tests/sim/sched.h"

#define NODE_LINKS_MAX 32u
#define NODE_PEERS_MAX REPLICAS_MAX
#define NODE_JOBS_MAX  1024u

enum node_end { NODE_KILLED, NODE_POWER_CUT, NODE_STOPPED };

/* Chances in a million for each disk operation, and what latencies are like. */
struct node_faults {
    uint64_t read_error, write_error, sync_error, other_error;
    uint64_t latency_ns_min, latency_ns_max, sync_ns_min, sync_ns_max;
    unsigned threads; /* of the pool */
};

struct node_callbacks {
    void *ctx;
    /* A turn is over; what it sends leaves behind this call. May be NULL. */
    void (*on_turn)(void *ctx);
    /* Messages that leave now on this link. The bytes are valid during the call. */
    void (*on_frame)(void *ctx, uint32_t link, struct span frame);
    /* Messages that leave now for the bucket's process on another node. May be NULL: there is no
     * other. */
    void (*on_peer_frame)(void *ctx, uint32_t to, struct span frame);
    /* The process has ended; the disk has taken its losses. */
    void (*on_end)(void *ctx, enum node_end end);
};

struct node_counters {
    uint64_t disk_ops, starts, power_cuts, kills, fatals, stops, io_errors, recovery_deaths;
};

/* A clock that shows local_ns at the true time at_ns and runs fast by drift_ppm millionths. */
struct node_clock {
    uint64_t at_ns, local_ns;
    int64_t drift_ppm;
};

struct node {
    struct env env;
    struct log log;
    char name[16]; /* in the trace's lines */
    struct sched *sched;
    struct trace *trace;
    struct prng prng;      /* faults and latencies */
    struct prng core_prng; /* what the core asks for */
    struct sim_disk *disk;
    struct bucket_config config;
    struct bucket *bucket; /* NULL: not running */
    struct node_faults faults;
    struct node_callbacks callbacks;
    uint64_t incarnation;
    bool dead, stopping, in_turn;
    enum node_end end;
    uint64_t crash_in_ops;   /* dies at this operation from now on; 0 = not by count */
    uint64_t crash_in_turns; /* ... at this turn's end, when some of what it sends has left */
    enum node_end crash_end;
    uint64_t power_keep; /* chance of an unsynced piece to survive a power cut */
    struct node_clock clock;
    uint64_t wake_ns;         /* by its clock */
    uint64_t paused_until_ns; /* stands still until then */
    uint64_t recovery_ns;     /* virtual time that recovery took so far */
    bool disk_given_up;       /* it ended by replace_disk: its owner gives it an empty one */
    bool read_errors_seen;    /* in this incarnation: an I/O error was injected into a read */
    struct fiber_job *jobs[NODE_JOBS_MAX]; /* waiting and running, in order of submission */
    unsigned job_count, running;
    struct fiber_job *current;
    struct node_link {
        uint32_t id;
        struct buf outbox;
    } links[NODE_LINKS_MAX];
    unsigned link_count;
    struct buf peers[NODE_PEERS_MAX];
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
/* The same in steps: node_begin, any number of the others, node_end. Where the process dies on the
 * way the rest has no effect. */
void node_begin(struct node *node);
void node_hand(struct node *node, uint32_t link, struct span frame);
void node_hand_peer(struct node *node, uint32_t from, struct span frame);
void node_hand_lost_link(struct node *node, uint32_t link);
void node_end(struct node *node);
/* It stands still until that time: the owner hands it nothing meanwhile. Its clock goes on. */
void node_pause(struct node *node, uint64_t until_ns);
uint64_t node_now(const struct node *node);
/* The clock shows local_ns now; from here on it runs with this drift. While the process runs it
 * never goes back. */
void node_set_clock(struct node *node, uint64_t local_ns, int64_t drift_ppm);
/* Another disk takes the place of this one, which is freed. No process may run. */
void node_replace_disk(struct node *node, struct sim_disk *disk);
/* Ends it now. */
void node_die(struct node *node, enum node_end end);
/* Asks it to stop; it ends (NODE_STOPPED) when it is idle. */
void node_stop(struct node *node);
