/* The supervisor's core: which process runs, who is introduced to whom, when to start again,
 * when to give up. Pure: time (milliseconds, monotonic) and events go in; starts, kills and
 * messages go out through supervisor_ops. supervisor/node.c is its shell.
 *
 * A process:
 *   STARTING --ready--> UP --stop asked--> STOPPING --exit--> (started again, or gone)
 *      |                 |exit: started again at once, while that doesn't happen too often
 *      |exit before ready
 *      v
 *   BACKOFF --pause over--> STARTING         pauses double from 100 ms to backoff_ms_max
 *      |crash_limit failures in a row
 *      v
 *   DOWN --every backoff_ms_max, or when the operator says so--> STARTING */
#pragma once

#include "common/buf.h"
#include "common/log.h"
#include "common/limits.h"
#include "proto/messages.h"

/* A process whose own link isn't there by then is killed and started again. */
#define HELLO_MS_MAX 5000
/* Time between a link's introduction and its being up; then it is introduced again on a fresh
 * path. It doubles with each failure up to INTRODUCE_MS_CAP, so that a machine under heavy load
 * gets there in the end. */
#define INTRODUCE_MS_MAX 2000
#define INTRODUCE_MS_CAP 32000
/* A process that said bye, or lost its link, has so long to end by itself. */
#define LEAVE_MS_MAX 1000
#define BACKOFF_MS_MIN 100
/* Restarts at once of a process that had been ready: so many in a row, then one a second. */
#define QUICK_RESTARTS_MAX 20

enum child_kind { CHILD_NETD, CHILD_BUCKETD };
enum child_state { CHILD_STARTING, CHILD_UP, CHILD_STOPPING, CHILD_BACKOFF, CHILD_DOWN };
enum introduction_state {
    INTRODUCTION_NONE,
    INTRODUCTION_LISTENING,
    INTRODUCTION_DIALLING,
    INTRODUCTION_UP
};

/* netd is child 0; then one bucketd for each bucket of this node, perhaps none. */
struct supervised {
    enum child_kind kind;
    uint32_t index;           /* bucket number */
    enum child_state state;
    uint64_t boot;            /* incarnation; of the last one where none runs */
    bool running;             /* a process exists */
    bool linked;              /* its link is up */
    bool ever_ready;
    bool restart_asked;       /* STOPPING, to be started again */
    bool kill_sent;
    bool reported_down;       /* crash_limit reached since it was last ready */
    uint64_t kill_ms;         /* kill it then; UINT64_MAX: never */
    uint64_t start_ms;        /* BACKOFF, DOWN: start it then */
    uint64_t started_ms, ready_ms;
    uint64_t recovery_us;     /* as the child says */
    unsigned failures;        /* in a row, before ready */
    unsigned quick_tokens;    /* restarts at once that are left */
    uint64_t quick_refill_ms;
    unsigned restarts;

    /* The link between netd and this bucketd. */
    enum introduction_state introduction;
    uint64_t link;            /* its number */
    uint64_t introduction_ms; /* given up then */
    unsigned introductions_failed;
};

struct supervisor_ops {
    void *ctx;
    /* A number never used before on this data directory. */
    uint64_t (*next_number)(void *ctx);
    /* Starts the process and begins to make its link. False: it couldn't be started. */
    bool (*start)(void *ctx, unsigned child, uint64_t boot);
    /* SIGKILL. */
    void (*kill)(void *ctx, unsigned child);
    /* Where messages to a linked child are packed. */
    struct buf *(*outbox)(void *ctx, unsigned child);
    /* The child said bye: closing its link lets it go. */
    void (*let_go)(void *ctx, unsigned child);
    /* The path on which this bucketd listens for netd: at most IPC_PATH_LEN_MAX bytes and a NUL. */
    void (*link_path)(void *ctx, uint32_t bucket, uint64_t link,
                      char path[static IPC_PATH_LEN_MAX + 1]);
    /* All is up for the first time, but for buckets that are down. */
    void (*node_ready)(void *ctx);
};

struct supervisor_config {
    uint64_t backoff_ms_max;
    unsigned crash_limit;
    uint64_t stop_timeout_ms; /* for netd, and then for the buckets */
    /* The buckets, then netd, all within stop_timeout_ms: where there are other nodes, netd's links
     * to them are what buckets hand their leadership over by, and clients are served by others. */
    bool buckets_stop_first;
};

enum stop_phase { STOP_NONE, STOP_NETD, STOP_BUCKETS, STOP_DONE };

struct supervisor {
    struct supervisor_config config;
    struct supervisor_ops ops;
    const struct log *log;
    unsigned count;
    struct supervised *children;
    uint32_t bucket_count;    /* of the node's whole configuration, also those that run elsewhere */
    enum stop_phase stopping;
    uint64_t stop_asked_ms;
    bool gave_up;             /* netd never came up: the node can't serve */
    bool ready;               /* node_ready was called */
};

/* buckets: those to run here. ops is copied, log borrowed. */
void supervisor_init(struct supervisor *s, const struct supervisor_config *config,
                     uint32_t bucket_count, const uint32_t *buckets, unsigned buckets_count,
                     const struct supervisor_ops *ops, const struct log *log);
void supervisor_release(struct supervisor *s);

/* Starts everything. */
void supervisor_start(struct supervisor *s, uint64_t now_ms);
/* Events of one child's current incarnation; the shell drops those of earlier ones. */
void supervisor_on_linked(struct supervisor *s, unsigned child, uint64_t now_ms);
void supervisor_on_unlinked(struct supervisor *s, unsigned child, uint64_t now_ms);
void supervisor_on_message(struct supervisor *s, unsigned child, const struct msg *msg,
                           uint64_t now_ms);
/* The process ended. how: "exit 1", "signal 9", for the log. again: so that it is started again. */
void supervisor_on_exit(struct supervisor *s, unsigned child, const char *how, bool again,
                        uint64_t now_ms);
/* The operator wants it started afresh: stopped cleanly where it runs, tried at once where it
 * doesn't. */
void supervisor_restart(struct supervisor *s, unsigned child, uint64_t now_ms);
/* netd first (it answers what is in flight), then the buckets; or the other way round. Called
 * again: kills what is left. */
void supervisor_stop(struct supervisor *s, uint64_t now_ms);
/* Does what is due; returns when it wants to be called next. */
uint64_t supervisor_tick(struct supervisor *s, uint64_t now_ms);

/* "starting", "up", ... */
const char *child_state_name(enum child_state state);
/* "netd" or "bucketd-3". */
void supervised_name(const struct supervised *child, char name[static 24]);

/* --- introduce.c: links between netd and the buckets; called by supervisor.c --- */
void introduce_tick(struct supervisor *s, uint64_t now_ms, uint64_t *next_ms);
void introduce_on_listening(struct supervisor *s, struct supervised *child,
                            const struct msg_link_listening *m, uint64_t now_ms);
void introduce_on_link_state(struct supervisor *s, const struct msg_link_state *m, uint64_t now_ms);
/* This child ended: its links are gone. */
void introduce_forget(struct supervisor *s, struct supervised *child);
/* This process of a bucket has ended: netd tells the other nodes. */
void introduce_bucket_ended(struct supervisor *s, const struct supervised *child);
/* Tells netd what became of a bucket; of all of them when netd is new. */
void introduce_bucket_state(struct supervisor *s, const struct supervised *child);
void introduce_all_states(struct supervisor *s);
