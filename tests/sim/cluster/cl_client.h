/* What the world asks of clients. (Draft by the world's side: the functions' names and moments
 * stand, the rest belongs to the clients.) */
#pragma once

#include "bucketd/core/bucket.h"
#include "tests/sim/prng.h"

struct cluster;
struct cl_client;
struct cl_swarm;

/* What clients do in a seed. */
struct cl_workload {
    uint32_t streams, partitions_used, tx_events_max, payload_max, window, batch;
    uint64_t think_ns;
};
/* Before it, the swarm's config, clients and ops are drawn. */
void cl_workload_draw(struct cl_workload *workload, const struct cl_swarm *swarm,
                      struct prng *prng);
void cl_workload_print(const struct cl_workload *workload, struct buf *out);

/* Client `index` (its netd lives on node index % nodes: it shares that node's network, but has no
 * process that ends). All links are down at first. */
struct cl_client *cl_client_new(struct cluster *cluster, uint32_t index);
void cl_client_free(struct cl_client *client);
/* The link to this node's bucket works from now on. */
void cl_client_on_link_up(struct cl_client *client, uint32_t node);
/* It is gone. What was under way is lost, in both directions; requests that arrived may have had
 * their effect. */
void cl_client_on_link_lost(struct cl_client *client, uint32_t node);
/* Messages from this node's bucket arrive (valid during the call). */
void cl_client_on_frame(struct cl_client *client, uint32_t node, struct span frame);
/* Faults have ended (cluster->phase is CL_END): come to an end. No new work but what the final
 * checks want: every unknown outcome is resolved, through every node one append is made (at the
 * leader that it hints at), every node is read from. */
void cl_client_finish(struct cl_client *client);
/* ... and all of that is done, and nothing is owed. */
bool cl_client_idle(const struct cl_client *client);
/* For the failure's text when it doesn't become idle in time: what it waits for. */
void cl_client_describe(const struct cl_client *client, struct buf *out);
