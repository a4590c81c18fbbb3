/* One bucket: the actor's core. Messages, completed jobs and time go in; messages and jobs come out
 * (env.h).
 *
 * Life: bucket_new → bucket_open (recovery, synchronous) → any number of turns: bucket_on_message
 * for what came in, then bucket_turn once → bucket_stop, turns until bucket_idle → bucket_free. */
#pragma once

#include "bucketd/core/env.h"
#include "common/limits.h"

struct bucket;

struct bucket_config {
    uint32_t bucket; /* index */
    uint32_t bucket_count;
    uint32_t partition_count;
    struct uuid cluster_id;
    uint32_t node;
    uint64_t segment_bytes;
    bool compression;
    uint64_t event_bytes_max; /* metadata + payload of one event */
    uint64_t transaction_bytes_max;
    uint64_t cache_bytes;       /* block cache of this bucket */
    uint64_t index_cache_bytes; /* mapped index files of this bucket */

    /* Replication; all of it may be 0 where this node is the only replica. */
    uint32_t replicas[REPLICAS_MAX]; /* nodes that the settings give this bucket, this one included;
                                        the same on all of them, in the same order */
    uint32_t replica_count;
    uint64_t boot; /* of this process: grows with each start */
    uint64_t age;  /* of this node: smaller is older, and leads rather */
    uint64_t tick_ns;
    uint64_t election_timeout_ns;
    uint64_t stale_after_ns;        /* without a quorum in sight reads are answered as stale */
    uint64_t uncommitted_bytes_max; /* then appends are refused as busy */
    bool balance_leaders;           /* hand back to replicas[0] when it is level */
    bool replaced;                  /* a log was set aside here: an empty one isn't a new one */
#ifdef PLANTED_BUGS
    int planted; /* enum planted, tests only */
#endif
};

struct bucket_stats {
    uint64_t events; /* stored */
    uint64_t appends, duplicates, conflicts, flushes, flushed_events, flushed_bytes;
    uint64_t reads, cache_hits, cache_misses, cache_entries, cache_bytes, cache_bytes_max,
        cache_evictions;
    uint64_t segments, disk_bytes, commit_idx, term;
    bool disk_full;
};

/* Takes a copy of the config; env is borrowed and must outlive the bucket. */
struct bucket *bucket_new(const struct bucket_config *config, struct env *env);
/* Only after bucket_idle, or where the process or simulated node dies: frees memory, touches no
 * disk but for closing and unmapping. */
void bucket_free(struct bucket *bucket);

/* Creates or recovers what is on the disk. Errors: ERR_IO, ERR_CORRUPT (the directory belongs to
 * another bucket, cluster or format; the log names what was expected). */
enum err bucket_open(struct bucket *bucket) MUST_CHECK;

/* One message from a link. Views in it need to live only for this call. */
void bucket_on_message(struct bucket *bucket, uint32_t link, const struct msg *msg);
/* A message from this bucket's process on another node. */
void bucket_on_peer_message(struct bucket *bucket, uint32_t node, const struct msg *msg);
/* A link is gone: forgets its waiting requests and what it follows. Appends already taken go on. */
void bucket_on_link_lost(struct bucket *bucket, uint32_t link);
/* Ends a turn: starts the flush of what gathered. Returns the time (env now_ns) of the next wanted
 * turn, UINT64_MAX where only input can make one necessary. */
uint64_t bucket_turn(struct bucket *bucket);

/* Takes no more requests: they are left unanswered, and sent again to the next incarnation. What
 * is in flight goes on. */
void bucket_stop(struct bucket *bucket);
/* Nothing in flight: no job runs, no answer is owed. */
bool bucket_idle(const struct bucket *bucket);

/* Replication as operators and tests see it. */
enum replica_role { ROLE_FOLLOWER, ROLE_CANDIDATE, ROLE_LEADER };
struct replica_state {
    enum replica_role role;
    uint64_t term, voted_for; /* node + 1; as written, perhaps not durable yet */
    uint32_t leader;          /* node + 1; 0: none known in this term */
    uint64_t last_idx, last_term, last_chain, durable_idx, commit_idx, verified_idx;
    bool settled; /* leads, and an entry of its term is committed */
    bool ready;   /* may answer reads */
    bool stale;   /* answers them without a quorum in sight */
    bool damaged; /* a stretch of its log waits for repair */
    bool voter;   /* of the configuration in force, on this disk */
    uint64_t disk_id;
};
void bucket_get_replica_state(const struct bucket *bucket, struct replica_state *ret_state);
/* The chain of a committed entry that is still remembered (the last few thousand): for checks that
 * replicas agree. */
bool bucket_chain_at(const struct bucket *bucket, uint64_t idx, uint64_t *ret_term,
                     uint64_t *ret_chain);
/* Hands leadership over, where this replica leads: to that node, or to the best one (node ==
 * UINT32_MAX). A process that is to stop does so first. */
void bucket_transfer(struct bucket *bucket, uint32_t node);

void bucket_get_stats(const struct bucket *bucket, struct bucket_stats *ret_stats);
