/* network.mdns: this node announces its cluster port by multicast DNS, and hears where the others
 * are. Who belongs to the cluster is configured (node.count, cluster.name, cluster.secret); this
 * only tells at which addresses a node may be worth a try. Anybody in the network can announce
 * anything, so addresses are hints: a session proves who is there (netd/peer_session.h), and what
 * is proven isn't given up for what is merely said (netd/mdns_table.h).
 *
 * Errors (no interface that can do multicast, a port that somebody has for himself) are logged
 * once, and it tries again when interfaces change and every RETRY_MS. Memory is bounded by
 * node.count, work by packets a tick. */
#pragma once

#include <sys/socket.h>
#include <uv.h>

#include "common/config.h"
#include "common/uuid.h"

struct mdns;

struct mdns *mdns_new(uv_loop_t *loop, const struct config *config, const struct log *log,
                      const struct uuid *cluster_id);
/* Frees itself as the loop runs on. */
void mdns_close(struct mdns *mdns);
/* Every 100 ms or so. */
void mdns_tick(struct mdns *mdns);
/* This node is about to leave: the others are told. */
void mdns_goodbye(struct mdns *mdns);

/* Whether there is a session with that node; none has one in the beginning. Nodes without one are
 * asked for. */
void mdns_set_alive(struct mdns *mdns, uint32_t node, bool alive);
/* Where it may be, best first; how many. */
unsigned mdns_addresses(const struct mdns *mdns, uint32_t node, struct sockaddr_storage *to,
                        unsigned max);
/* A session was made at this address of the node. */
void mdns_prove(struct mdns *mdns, uint32_t node, const struct sockaddr *address);

/* "name value" lines for stats_reply. */
void mdns_print_stats(const struct mdns *mdns, struct buf *out);
