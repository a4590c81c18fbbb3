/* What must be true, whatever happens (REPLICATION.md 10, FAULTS.md 4). The world tells the oracle
 * of everything at the moment it happens; violations go to trace_fail(&cluster->trace, ...). */
#pragma once

#include "proto/messages.h"
#include "tests/sim/node.h"

struct cluster;
struct oracle;
struct model;

struct oracle_totals {
    uint64_t ops, acked_txs, acked_events, refusals, unknown, reads, stale_reads, tails, elections,
        entries, durable_checks, recoveries;
};

/* After the swarm is drawn. */
struct oracle *oracle_new(struct cluster *cluster);
void oracle_free(struct oracle *oracle);
void oracle_get_totals(const struct oracle *oracle, struct oracle_totals *ret_totals);

/* A node's process has recovered and runs (it is heard and hears a little later); the disk is as
 * its recovery left it. */
void oracle_on_start(struct oracle *oracle, uint32_t node);
/* It has ended; the disk (nodes[node].node.disk) has taken its losses. bucket_free was called
 * already. */
void oracle_on_end(struct oracle *oracle, uint32_t node, enum node_end how);
/* A turn of the node is over: nothing of it has left yet. */
void oracle_after_step(struct oracle *oracle, uint32_t node);
/* A message leaves for another node, behind the oracle_after_step of its turn. Whether and when it
 * arrives nobody knows. */
void oracle_on_peer_message(struct oracle *oracle, uint32_t from, uint32_t to,
                            const struct msg *msg);
/* A client's messages reach the node's bucket now, before it handles them. */
void oracle_on_request(struct oracle *oracle, uint32_t client, uint32_t node, struct span frame);
/* A node's messages to a client leave the bucket now, behind the oracle_after_step of its turn
 * (they arrive later, or never). */
void oracle_on_reply(struct oracle *oracle, uint32_t client, uint32_t node, struct span frame);
/* The link is gone, as the bucket sees it: what it follows and owes on it is void. */
void oracle_on_link_lost(struct oracle *oracle, uint32_t client, uint32_t node);
/* The world does harm to a node's disk (its process doesn't run, or in sealed segments while it
 * does). */
enum damage { DAMAGE_ROT, DAMAGE_INDEX, DAMAGE_WIPED };
void oracle_on_damage(struct oracle *oracle, uint32_t node, enum damage damage);
/* Faults have ended, all nodes run and agree on a leader, clients are idle, nothing is under way:
 * all logs must be equal, and everything ever acknowledged in them. */
void oracle_at_rest(struct oracle *oracle);

/* --- for clients --- */
/* What was ever sent, and what is known of the logs. */
struct model *oracle_model(struct oracle *oracle);
/* Events of a partition that some replica has committed. */
uint64_t oracle_committed(const struct oracle *oracle, uint32_t partition);
/* The highest idx that is committed. */
uint64_t oracle_commit_idx(const struct oracle *oracle);
/* A client's request ids tell the oracle what they are for: the low half counts. */
#define REQUEST_ID(about, count) ((uint64_t)(about) << 32 | (uint32_t)(count))
#define REQUEST_ABOUT(id)        ((uint32_t)((id) >> 32))
