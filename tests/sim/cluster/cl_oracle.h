/* What the parts of the oracle share (oracle.h is its outside).
 *
 *   cl_oracle.c         life, requests and answers on their way, at rest
 *   cl_oracle_log.c     replicas: terms, votes, what is durable, what is committed
 *   cl_oracle_image.c   recovery tried on copies of disks
 *   cl_oracle_append.c  transactions: acknowledged, refused, unknown; their order in time
 *   cl_oracle_read.c    reads, watermarks, followers
 *
 * `committed` of a partition is the number of its events that some replica has committed; it is
 * read after each turn, before anything of the turn leaves. So for each request there are two
 * bounds: what was committed when it came, and what is when its answer leaves; what the answer
 * says must be true between them. */
#pragma once

#include "tests/sim/cluster/cl_durable.h"
#include "tests/sim/cluster/cluster.h"
#include "tests/sim/model.h"

/* A request that has reached a bucket and isn't answered. */
struct oracle_op {
    struct oracle_op *next;
    uint64_t id;
    enum msg_tag tag;
    uint32_t client, node, tx, attempt;
    uint32_t partition, stream, event;
    uint64_t from, to, count, bytes, watermark, need, mode;
    bool reverse;
    uint64_t arrived_ns;
    uint64_t low;      /* committed events of its partition when it came */
    uint64_t last_idx; /* of the node's log when it came */
    uint64_t term;     /* in which the node led when it came; 0: it didn't */
    bool tx_was_acked; /* before it came */
};

/* What a node follows for a client. */
enum oracle_follow_state { OFOLLOW_NOT, OFOLLOW_ASKED, OFOLLOW_ON };
struct oracle_follow {
    enum oracle_follow_state state;
    uint64_t next;
    uint64_t ended; /* in this turn of the node: what it had packed before may leave with it */
};

/* A client's link to a node, as the node sees it. */
struct oracle_link {
    struct oracle_op *first, *last;
    struct oracle_follow *follows; /* [partition_count] */
};

/* Beside the model's: what is known of a transaction's attempts. */
struct oracle_tx {
    uint32_t client;
    uint32_t attempts; /* that reached a bucket */
    uint64_t maybe;    /* bit i: attempt i may have had its effect; those from 63 on share one */
    uint64_t low;      /* committed events of its partition when its first attempt came */
    bool checked;      /* its place was compared with low */
};

/* A refusal that rests on what is stored. */
struct oracle_claim {
    struct claim claim;
    uint32_t node;
    uint64_t low, high;
};

/* A read's answer that is judged when the log is known up to its watermark. */
struct oracle_read {
    struct oracle_op op;
    bool more; /* of a version or sequence: present */
    uint64_t first, found, watermark;
};

struct oracle_entry {
    uint64_t term, chain;
    uint64_t commit_term; /* of the node that committed it first, at that time */
    uint64_t marks;       /* hash of all watermarks behind this entry; 0: not seen */
    uint32_t node;        /* that committed it first */
};

#define VOTES_PER_DISK 16u

struct oracle_node {
    bool runs;
    uint64_t boots, turns;
    struct replica_state state; /* after its last turn */
    uint64_t *marks;            /* watermarks by partition, of this boot */
    struct durable_log durable;
    bool blind;                     /* damage hides what is durable */
    uint64_t floor_term, floor_idx; /* its log's end can't be lower at the next start */
    uint64_t floor_vote_term, floor_vote;
    bool floor_known;
    uint64_t term_said;             /* in a message of this boot, and it was durable */
    uint64_t acked_term, acked_idx; /* the last it acknowledged to that term's leader */
    uint64_t lead_since_ns;
    uint64_t commit_term;  /* of the commit at hand */
    uint64_t wiped_at_idx; /* committed when it lost its disk, until it is level; 0: no */
    uint64_t lost_idx;     /* that a disk held which is lost: it may have been acknowledged */
    uint32_t disks;        /* that it lost */
    uint32_t *votes;       /* by term: disks * VOTES_PER_DISK + node + 1 */
    uint64_t votes_cap;
    uint64_t *covered;           /* by partition: read at the end, from its first event on */
    bool was_damaged, was_wiped; /* at any time */
};

struct oracle_mark {
    uint64_t time_ns, count;
};

struct oracle_partition {
    uint64_t committed;
    /* How it grew, for what was committed at an earlier time. */
    struct oracle_mark *marks;
    uint64_t mark_count, mark_cap;
};

struct oracle {
    struct cluster *cluster;
    struct model model;
    uint32_t partition_count;
    struct oracle_node nodes[CL_NODES_MAX];
    struct oracle_link links[CL_CLIENTS_MAX][CL_NODES_MAX];
    struct oracle_partition *partitions;
    struct oracle_entry *log;  /* [idx], committed; [0] is empty */
    uint64_t log_len, log_cap; /* log_len: highest committed idx + 1 */
    uint32_t *leaders;         /* by term: node + 1 */
    uint64_t leaders_cap;
    struct oracle_tx *txs;
    uint32_t tx_cap;
    struct oracle_claim *claims;
    uint32_t claim_count, claim_cap;
    struct oracle_read *reads;
    uint32_t read_count, read_cap;
    struct prng prng;
    struct oracle_totals totals;
};

/* The first violation: which invariant, and what. */
#define oracle_fail(oracle, invariant, ...) oracle_fail_at(oracle, "[" invariant "] " __VA_ARGS__)
/* One that no client could see, or not yet: only what replicas do among themselves shows it. */
#define inside_fail(oracle, invariant, ...)                                                        \
    do {                                                                                           \
        if (!(oracle)->cluster->options.outside)                                                   \
            oracle_fail(oracle, invariant, __VA_ARGS__);                                           \
    } while (0)
void oracle_fail_at(struct oracle *oracle, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline bool oracle_failed(const struct oracle *oracle)
{
    return oracle->cluster->trace.failed;
}
static inline uint64_t oracle_now(const struct oracle *oracle)
{
    return oracle->cluster->sched.now_ns;
}
static inline bool is_alone(const struct oracle *oracle)
{
    return oracle->cluster->swarm.config.replica_count <= 1;
}
/* Room for element `at` of an array; what is new is zero. */
void *oracle_grow(void *array, uint64_t *cap, uint64_t at, size_t size);

/* --- cl_oracle_log.c --- */
void oracle_log_start(struct oracle *oracle, uint32_t node);
void oracle_log_end(struct oracle *oracle, uint32_t node);
void oracle_log_damage(struct oracle *oracle, uint32_t node, enum damage damage);
void oracle_log_step(struct oracle *oracle, uint32_t node);
void oracle_log_message(struct oracle *oracle, uint32_t from, uint32_t to, const struct msg *msg);
void oracle_log_at_rest(struct oracle *oracle);

/* --- cl_oracle_image.c --- */
/* Recovers a copy of the node's disk, twice. cut: as a power cut would leave it now. */
void oracle_check_image(struct oracle *oracle, uint32_t node, bool cut);

/* --- cl_oracle_append.c --- */
struct oracle_tx *oracle_tx_of(struct oracle *oracle, uint32_t tx);
void oracle_append_arrives(struct oracle *oracle, struct oracle_op *op,
                           const struct msg_append_req *req);
void oracle_append_answered(struct oracle *oracle, const struct oracle_op *op,
                            const struct msg_append_reply *reply);
void oracle_append_failed(struct oracle *oracle, const struct oracle_op *op,
                          const struct msg_fail_reply *reply);
/* An answer showed this event. */
void oracle_see_event(struct oracle *oracle, uint32_t node, const struct rec_stored_event *event);
void oracle_append_at_rest(struct oracle *oracle);

/* --- cl_oracle_read.c --- */
void oracle_read_events(struct oracle *oracle, const struct oracle_op *op,
                        const struct msg_events_reply *reply);
void oracle_read_number(struct oracle *oracle, const struct oracle_op *op,
                        const struct msg_number_reply *reply);
void oracle_read_failed(struct oracle *oracle, const struct oracle_op *op,
                        const struct msg_fail_reply *reply);
void oracle_follow_answered(struct oracle *oracle, const struct oracle_op *op,
                            const struct msg_follow_reply *reply);
void oracle_on_tail(struct oracle *oracle, uint32_t client, uint32_t node,
                    const struct msg_tail *tail);
void oracle_read_at_rest(struct oracle *oracle);
