/* Clients of a simulated cluster, as the world sees them. Each is a netd with several sessions (its
 * own clients' connections): one channel of appends, kept in order across leader changes; reads at
 * any node; subscriptions that move from node to node. */
#pragma once

#include "bucketd/core/bucket.h"
#include "tests/sim/prng.h"

struct cluster;
struct cl_client;
struct cl_swarm;
struct model;

/* What clients do in a seed. Chances are in a million. */
struct cl_workload {
    uint32_t streams, partitions_used, tx_events_max, payload_max;
    uint32_t window, batch; /* requests in flight; those sent at once */
    uint32_t sessions;
    uint64_t think_ns, idle_ns_max, idle_chance;
    uint32_t append_weight, get_weight, scan_weight, number_weight;
    uint64_t multi_chance, big_chance, exact_chance, wrong_chance, given_chance, repeat_chance,
        copy_chance, invalid_chance;
    uint64_t strong_chance;
    uint64_t new_session_chance; /* of a read that needs nothing in particular */
    uint64_t wake_reads;         /* sent to a node whose link has just come up */
    uint64_t follow_chance;      /* of a subscription to a partition */
    uint64_t move_mean_ns;       /* between moves of a subscription; 0: only when it must */
    bool eager;                  /* a new epoch doesn't wait for the answers of the last one */
    uint64_t patience_ns;        /* for an answer; then the link is given up */
};
/* Before it, the swarm's config, clients, storms and ops are drawn. */
void cl_workload_draw(struct cl_workload *workload, const struct cl_swarm *swarm,
                      struct prng *prng);
void cl_workload_print(const struct cl_workload *workload, struct buf *out);
/* Few keys, few names: streams of one transaction, and one name under two keys. */
void cl_workload_add_streams(struct model *model, const struct cl_swarm *swarm, struct prng *prng);

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
