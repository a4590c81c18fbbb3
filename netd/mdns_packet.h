/* Packets of multicast DNS (RFC 6762) with DNS-SD (RFC 6763): as much of it as nodes need to find
 * one another.
 *
 * A node announces one instance of _sierradb._tcp.local, and a subtype _<node>-<cluster>._sub of it
 * by which others ask for it alone. One packet holds all there is to know: PTR, SRV (the cluster
 * port), TXT (v, cluster, id, node), A and AAAA. What would have to be put together from several
 * packets is ignored: so nothing is remembered of packets that don't say all. The instance's name
 * holds a random number, so that two are never called the same, and none has to be probed for.
 *
 * Whoever is in the same network can send such packets: they are hints and no more. Reading
 * allocates nothing, and takes time in proportion to the packet. Pure. */
#pragma once

#include "common/buf.h"
#include "common/uuid.h"

#define MDNS_PORT 5353u
/* Larger ones aren't looked at. Ours are smaller, and so is all that is sent over Ethernet. */
#define MDNS_PACKET_BYTES_MAX 1500u
#define MDNS_TTL_S            120u
/* Of one node in one packet; more are left out. */
#define MDNS_ADDRESSES_MAX 4u
/* Nodes that one packet asks for by name; where more are wanted, all are asked. */
#define MDNS_WANTED_MAX 16u
#define MDNS_LABEL_LEN  48u

struct mdns_address {
    uint8_t ip[16]; /* 4 of them where it isn't v6; the rest is 0 */
    bool v6;
    uint32_t scope; /* the interface of a link-local v6 address, else 0 */
};

/* What this node says of itself. */
struct mdns_self {
    struct uuid cluster_id;
    struct span cluster_name; /* for people; cut to what fits */
    uint32_t node, node_count;
    uint16_t port;
    char label[MDNS_LABEL_LEN]; /* its instance and host: mdns_make_label */
};

/* What another one says. */
struct mdns_announcement {
    uint32_t node;
    uint16_t port;
    uint32_t ttl_s; /* 0: it leaves */
    struct mdns_address addresses[MDNS_ADDRESSES_MAX];
    unsigned address_count;
};

enum mdns_reading {
    MDNS_NOTHING,   /* not for us, or no such packet at all */
    MDNS_ASKS,      /* somebody wants to know what we announce */
    MDNS_ANNOUNCES, /* a node of our cluster, it says */
    MDNS_OWN,       /* our own announcement came back */
    MDNS_TWIN,      /* another instance says that it is this node */
};

void mdns_make_label(struct mdns_self *self, uint64_t random);

/* Asks for these nodes; count 0: for all. */
void mdns_write_query(struct buf *out, const struct mdns_self *self, const uint32_t *nodes,
                      unsigned count);
void mdns_write_announcement(struct buf *out, const struct mdns_self *self,
                             const struct mdns_address *addresses, unsigned count, bool goodbye);

/* *ret_announcement is set where it is MDNS_ANNOUNCES. Link-local addresses have scope 0 yet. */
enum mdns_reading mdns_read(struct span packet, const struct mdns_self *self,
                            struct mdns_announcement *ret_announcement);

static inline bool mdns_address_equal(const struct mdns_address *a, const struct mdns_address *b)
{
    return a->v6 == b->v6 && a->scope == b->scope && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}
