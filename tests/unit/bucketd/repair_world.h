/* Three replicas' logs on disks in memory, with what repairs them and what lends to others, and the
 * messages between them. Nobody elects or replicates here: the logs are made equal by hand, each
 * with batches and segments of its own; the model knows what each idx holds. */
#pragma once

#include "bucketd/core/index.h"
#include "bucketd/core/lender.h"
#include "bucketd/core/repairer.h"
#include "bucketd/core/wal_internal.h"
#include "tests/unit/bucketd/wal_support.h"

#define NODES      3u
#define WORLD_IDXS 2000u
#define LEADER     0u
#define TICK_NS    10000000ull
#define TIMEOUT_NS (5 * TICK_NS)
#define PAUSE_NS   (8 * TICK_NS)

struct world;

struct node {
    struct world *world;
    uint32_t number;
    struct mem_disk *mem;
    struct env env;
    struct env_ops ops;
    struct wal *wal;
    struct wal_recovery recovery;
    struct repairer *repairer;
    struct lender *lender;
    uint64_t boot;
    bool up, leads;
    bool gave_up; /* its disk */
    uint64_t gave_way;
    bool fatal; /* and err */
    enum err fatal_err;
    struct buf out[NODES];
    uint64_t replaced; /* segments exchanged so far */
    uint64_t last_replaced;
    struct index *index;     /* of the last one */
    uint64_t refuse_replace; /* so often may_replace says no */
    uint64_t seen;
};

struct world {
    struct node nodes[NODES];
    struct run *made; /* makes transactions */
    uint64_t now_ns, last, committed;
    uint64_t state; /* of random choices */
    uint64_t terms[WORLD_IDXS], chains[WORLD_IDXS];
    uint64_t delivered;                                                     /* chunks */
    bool (*drop)(struct world *, uint32_t from, uint32_t to, struct msg *); /* true: it is lost */
};

struct world *world_new(uint64_t seed, uint64_t segment_bytes, size_t data_max);
void world_free(struct world *world);
uint64_t world_pick(struct world *world, uint64_t below);
/* Entries that all get, in different batches. With `cuts`, replicas that don't lead get some that
 * the leader's log hasn't got, and cut them again. */
void world_append(struct world *world, int count, bool cuts);
/* All of it durable everywhere, and committed. */
void world_settle(struct world *world);
void world_flush(struct node *node);
/* One entry of the leader's for these nodes only (a bit each). */
void world_append_to(struct world *world, uint32_t nodes);
/* A dead tail: entries of an old term on this node. */
void world_append_stray(struct world *world, struct node *node, int count);
/* Everybody is in a new term; `leader` leads. */
void world_new_term(struct world *world, uint32_t leader);

void node_kill(struct node *node);
/* wal_open and all the rest. */
void node_start(struct node *node);
/* A tick of this node, as it is now, reaches another one; `fresh`: it answers one of its. */
void world_tick(struct world *world, uint32_t from, uint32_t to, bool fresh);
/* Turns, jobs, messages, until nothing happens before this much time has gone. */
void world_run(struct world *world, uint64_t ns);

/* Checks that the node's log is that of the model up to `last`, in all segments, without any
 * problem, but for `except` (a segment; UINT64_MAX: none). */
void check_log(struct node *node, uint64_t last, uint64_t except);
/* The index leads to every event of the segment. */
void check_index(struct node *node, uint64_t segment, struct index *index);
/* problems that a scan of it finds; 1 where it can't be read at all. */
uint64_t scan_problems(struct node *node, uint64_t segment);

/* Where the batches of a segment are. */
struct batch_at {
    uint64_t offset, bytes, first_idx, last_idx;
};
size_t batches_of(struct node *node, uint64_t segment, struct batch_at *list, size_t max);
/* Flips a bit in the middle of its batches. */
void damage(struct node *node, uint64_t segment);
struct buf *data_of(struct node *node, uint64_t segment);
