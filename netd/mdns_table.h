/* Where other nodes are, as far as announcements tell: hints, and a bounded number of them.
 *
 * For each node the table holds the address at which a session was made (proven), and what
 * MDNS_CLAIMS_MAX senders say of it. A sender has one claim for each node: another one of its own
 * takes the old one's place, and only its own goodbye ends it. Where there are more senders than
 * places, claims that are over go first, then the one unheard for longest; what is proven stays
 * until something else is. So who doesn't forge the sender's address can't push others out alone,
 * and nobody can take away what works. Pure. */
#pragma once

#include "netd/mdns_packet.h"

#define MDNS_CLAIMS_MAX 4u
/* All that may be known of one node. */
#define MDNS_ENDPOINTS_MAX (1u + MDNS_CLAIMS_MAX * MDNS_ADDRESSES_MAX)

struct mdns_endpoint {
    struct mdns_address address;
    uint16_t port;
};

struct mdns_table;

struct mdns_table *mdns_table_new(uint32_t node_count);
void mdns_table_free(struct mdns_table *table);

/* What mdns_read gave, from this sender. True: something that wasn't known. */
bool mdns_table_take(struct mdns_table *table, const struct mdns_announcement *announcement,
                     const struct mdns_address *sender, uint64_t now_ms);
/* A session was made at this address. */
void mdns_table_prove(struct mdns_table *table, uint32_t node,
                      const struct mdns_endpoint *endpoint);
/* In the order in which they are worth a try, none twice: what is proven; what senders say of
 * themselves; what they say of others, a turn for each sender. Returns how many. */
unsigned mdns_table_list(const struct mdns_table *table, uint32_t node, uint64_t now_ms,
                         struct mdns_endpoint *to, unsigned max);

static inline bool mdns_endpoint_equal(const struct mdns_endpoint *a, const struct mdns_endpoint *b)
{
    return a->port == b->port && mdns_address_equal(&a->address, &b->address);
}
