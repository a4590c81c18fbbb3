/* This node's part in the cluster: what goes between its buckets' processes and other nodes, what
 * it tells them of itself and knows of them. The glue between router.h (links to the local
 * processes, calls to all), peers.h (other nodes) and the supervisor's word. With a single node
 * there are no peers, and nothing goes anywhere. */
#pragma once

#include "netd/cluster_view.h"
#include "netd/peers.h"
#include "netd/router.h"

struct cluster;

struct cluster_config {
    uv_loop_t *loop;
    const struct config *config;
    const struct log *log;
    struct router *router;
    struct uuid cluster_id;
    uint64_t boot;   /* of this netd */
    uint64_t age_ms; /* when this node started, ms since the epoch */
};

/* ERR_IO: it can't listen for other nodes; the log says why. */
enum err cluster_new(const struct cluster_config *config, struct cluster **ret_cluster) MUST_CHECK;

/* --- From the router: the local processes, and calls for other nodes' --- */
void cluster_on_local(struct cluster *cluster, uint32_t bucket, bool up);
void cluster_on_local_message(struct cluster *cluster, uint32_t bucket, const struct msg *msg);
bool cluster_send(struct cluster *cluster, uint32_t node, uint32_t bucket, struct span bytes);

/* --- From the supervisor --- */
void cluster_on_bucket_state(struct cluster *cluster, uint32_t bucket, enum bucket_state state);
/* The process with this boot has ended: the other replicas hear of it at once. */
void cluster_on_bucket_ended(struct cluster *cluster, uint32_t bucket, uint64_t boot);

/* commands: handled since the start. Called every 100 ms or more often. */
void cluster_tick(struct cluster *cluster, uint64_t commands);
/* The end of a turn. */
void cluster_flush(struct cluster *cluster);
/* This node is about to leave: the others are told. */
void cluster_stop(struct cluster *cluster);
/* Nothing waits to leave. */
bool cluster_flushed(const struct cluster *cluster);

/* view: to be released by the caller; texts in it are valid until the next turn. */
void cluster_get_view(struct cluster *cluster, struct cluster_view *ret_view);
/* The same for the supervisor. Valid until the next call. */
void cluster_get_report(struct cluster *cluster, struct msg_report_reply *ret_report);
void cluster_print_stats(struct cluster *cluster, struct buf *out);
