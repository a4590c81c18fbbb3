/* What the parts of the simulated world share. */
#pragma once

#include "common/assert.h"
#include "tests/sim/cluster/cluster.h"

static inline bool cl_has(const struct cluster *cluster, enum cl_fault fault)
{
    return cluster->swarm.faults[fault];
}

static inline struct prng *cl_prng(struct cluster *cluster, enum cl_fault fault)
{
    return &cluster->fault_prng[fault];
}

/* --- cl_world.c --- */
bool cl_is_quiet(const struct cluster *cluster); /* faults have ended */
/* The replica that leads in the highest term; UINT32_MAX: none. */
uint32_t cl_leader(struct cluster *cluster);

/* --- cl_node.c --- */
void cl_node_init(struct cluster *cluster, uint32_t index);
void cl_node_release(struct cl_node *node);
/* Starts it then, unless another start is planned later on. */
void cl_node_start_after(struct cl_node *node, uint64_t delay_ns);
/* Its process ends now; what follows (losses, restart) follows. */
void cl_node_end_now(struct cl_node *node, enum node_end end);
/* Planned: hand leadership over, stop. */
void cl_node_stop(struct cl_node *node);
/* Input for its next turn; the bytes are taken. */
void cl_node_take(struct cl_node *node, enum cl_input input, uint32_t from, uint32_t client,
                  struct buf *bytes);

/* --- cl_net.c --- */
struct cl_net *cl_net_new(struct cluster *cluster);
void cl_net_free(struct cl_net *net);
void cl_net_send(struct cluster *cluster, uint32_t from, uint32_t to, struct span frame);
/* A netd runs there. */
static inline bool cl_has_netd(const struct cluster *cluster, uint32_t node)
{
    return cluster->sched.now_ns >= cluster->nodes[node].netd_down_until_ns;
}
bool cl_net_is_cut(const struct cluster *cluster, uint32_t from, uint32_t to);
/* cut[from][to] from now on; hold: what is sent meanwhile arrives when it heals. */
void cl_net_cut(struct cluster *cluster, bool cut[CL_NODES_MAX][CL_NODES_MAX], bool hold);
void cl_net_heal(struct cluster *cluster);
/* What is under way between two nodes is lost. */
void cl_net_reset(struct cluster *cluster, uint32_t a, uint32_t b);
/* A process of this node has ended: its peers may hear of it. */
void cl_net_notice(struct cluster *cluster, uint32_t node, uint64_t boot);

/* --- cl_links.c --- */
struct cl_links *cl_links_new(struct cluster *cluster);
void cl_links_free(struct cl_links *links);
void cl_links_on_node_up(struct cluster *cluster, uint32_t node);
/* abrupt: the clients don't hear of it at once. */
void cl_links_on_node_down(struct cluster *cluster, uint32_t node, bool abrupt);
/* Messages leave a node's bucket on this link. */
void cl_links_on_reply(struct cluster *cluster, uint32_t node, uint32_t link, struct span frame);
void cl_links_break(struct cluster *cluster, uint32_t client, uint32_t node);
void cl_links_on_cut(struct cluster *cluster);
void cl_links_on_heal(struct cluster *cluster);

/* --- cl_faults.c --- */
void cl_faults_begin_storm(struct cluster *cluster);
void cl_faults_end_storm(struct cluster *cluster);
/* Before a start: when and how this process is to end, if the seed wants that. */
void cl_faults_plan_recovery(struct cl_node *node);

/* --- cl_damage.c --- */
/* Its process doesn't run: what may befall the disk meanwhile. */
void cl_damage_at_rest(struct cl_node *node);
/* Rot in sealed segments of a running node. */
void cl_damage_sealed(struct cl_node *node);
/* Looks at what has been made whole again. */
void cl_damage_review(struct cluster *cluster);
/* The disk was harmed so that its process may rightly refuse to start. */
bool cl_damage_may_wipe(struct cl_node *node);
bool cl_damage_excuses(const struct cl_node *node);
void cl_damage_wipe(struct cl_node *node);
