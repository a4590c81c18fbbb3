/* The cluster as one node sees it: nodes, the replicas of every bucket, who leads, and what is
 * wrong, in words. For ECLUSTER and `sierradb cluster status`. Pure: cluster.c fills in what was
 * heard. */
#pragma once

#include "common/buf.h"
#include "common/limits.h"
#include "proto/messages.h"

#define VIEW_NONE UINT32_MAX
/* As in bucketd/core/bucket.h. */
enum view_role { VIEW_FOLLOWER, VIEW_CANDIDATE, VIEW_LEADER };

enum view_state {
    VIEW_OK,
    VIEW_DEGRADED,    /* something is wrong, but every bucket has a leader and a quorum */
    VIEW_UNAVAILABLE, /* some bucket hasn't, as far as is known here */
};

struct view_bucket {
    uint32_t first, count; /* of view.replicas, in the order of placement */
    uint32_t leader;       /* index in view.replicas; VIEW_NONE: none known that lives */
    uint64_t term;         /* the highest that was heard of */
    uint32_t alive;        /* replicas that are */
};

struct cluster_view {
    uint32_t node_count, bucket_count, replica_count;
    struct rec_report_node *nodes; /* by index */
    struct view_bucket *buckets;
    struct rec_report_replica *replicas;
    /* By view_finish: */
    enum view_state state;
    uint32_t nodes_alive, buckets_led;
    struct buf problems; /* report_problem records */
    uint32_t problem_count;
};

/* All replicas in their places, nothing known of them. */
void view_init(struct cluster_view *view, uint32_t node_count, uint32_t bucket_count,
               uint32_t factor);
void view_release(struct cluster_view *view);
/* NULL: that node holds no replica of that bucket. */
struct rec_report_replica *view_replica(struct cluster_view *view, uint64_t bucket, uint64_t node);
/* What was heard of a replica, by gossip. */
void view_hear(struct cluster_view *view, uint64_t node, const struct rec_gossip_bucket *heard);
/* Works out the rest. Of nodes are filled in: all but replicas and leads. Of replicas: nothing but
 * by view_hear. */
void view_finish(struct cluster_view *view);
/* "ok", "degraded", "unavailable"; "follower", ...; "healthy", ...; "starting", ... */
const char *view_state_name(enum view_state state);
const char *view_role_name(uint64_t role);
const char *view_health_name(uint64_t health);
const char *view_process_name(uint64_t state);
