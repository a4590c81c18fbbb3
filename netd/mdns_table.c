/* Claims of where nodes are, and what is proven of them. */
#include "netd/mdns_table.h"

#include <stdlib.h>

#include "common/assert.h"

/* What one sender says of one node. */
struct claim {
    bool used;
    struct mdns_address sender;
    uint16_t port;
    struct mdns_address addresses[MDNS_ADDRESSES_MAX]; /* the sender's own first */
    unsigned address_count;
    uint64_t heard_ms, until_ms;
};

struct whereabouts {
    bool has_proven;
    struct mdns_endpoint proven;
    struct claim claims[MDNS_CLAIMS_MAX];
};

struct mdns_table {
    uint32_t node_count;
    struct whereabouts nodes[];
};

static struct claim *find_claim(struct whereabouts *node, const struct mdns_address *sender);
static struct claim *take_place(struct whereabouts *node, uint64_t now_ms);
static struct claim make_claim(const struct mdns_announcement *announcement,
                               const struct mdns_address *sender, uint64_t now_ms);
static bool same_claim(const struct claim *a, const struct claim *b);
static unsigned add(const struct mdns_endpoint *endpoint, struct mdns_endpoint *to, unsigned count,
                    unsigned max);

struct mdns_table *mdns_table_new(uint32_t node_count)
{
    struct mdns_table *table = calloc(1, sizeof *table + node_count * sizeof *table->nodes);
    ASSERT(table != NULL);
    table->node_count = node_count;
    return table;
}

void mdns_table_free(struct mdns_table *table)
{
    free(table);
}

bool mdns_table_take(struct mdns_table *table, const struct mdns_announcement *announcement,
                     const struct mdns_address *sender, uint64_t now_ms)
{
    ASSERT(announcement->node < table->node_count);
    struct whereabouts *node = &table->nodes[announcement->node];
    struct claim *claim = find_claim(node, sender);
    if (announcement->ttl_s == 0) {
        if (claim != NULL)
            *claim = (struct claim){0};
        return false;
    }
    struct claim made = make_claim(announcement, sender, now_ms);
    bool news = claim == NULL || now_ms >= claim->until_ms || !same_claim(claim, &made);
    if (claim == NULL)
        claim = take_place(node, now_ms);
    *claim = made;
    return news;
}

static struct claim *find_claim(struct whereabouts *node, const struct mdns_address *sender)
{
    for (unsigned i = 0; i < MDNS_CLAIMS_MAX; i++)
        if (node->claims[i].used && mdns_address_equal(&node->claims[i].sender, sender))
            return &node->claims[i];
    return NULL;
}

static struct claim *take_place(struct whereabouts *node, uint64_t now_ms)
{
    struct claim *oldest = &node->claims[0];
    for (unsigned i = 0; i < MDNS_CLAIMS_MAX; i++) {
        struct claim *claim = &node->claims[i];
        if (!claim->used || now_ms >= claim->until_ms)
            return claim;
        if (claim->heard_ms < oldest->heard_ms)
            oldest = claim;
    }
    return oldest;
}

static struct claim make_claim(const struct mdns_announcement *announcement,
                               const struct mdns_address *sender, uint64_t now_ms)
{
    struct claim claim = {.used = true,
                          .sender = *sender,
                          .port = announcement->port,
                          .heard_ms = now_ms,
                          .until_ms = now_ms + 1000ull * announcement->ttl_s};
    ASSERT(announcement->address_count <= MDNS_ADDRESSES_MAX);
    for (int own = 1; own >= 0; own--) {
        for (unsigned i = 0; i < announcement->address_count; i++) {
            const struct mdns_address *address = &announcement->addresses[i];
            if (mdns_address_equal(address, sender) == (own == 1))
                claim.addresses[claim.address_count++] = *address;
        }
    }
    return claim;
}

static bool same_claim(const struct claim *a, const struct claim *b)
{
    bool same = a->port == b->port && a->address_count == b->address_count;
    for (unsigned i = 0; same && i < a->address_count; i++)
        same = mdns_address_equal(&a->addresses[i], &b->addresses[i]);
    return same;
}

void mdns_table_prove(struct mdns_table *table, uint32_t node, const struct mdns_endpoint *endpoint)
{
    ASSERT(node < table->node_count);
    table->nodes[node].has_proven = true;
    table->nodes[node].proven = *endpoint;
}

unsigned mdns_table_list(const struct mdns_table *table, uint32_t node, uint64_t now_ms,
                         struct mdns_endpoint *to, unsigned max)
{
    ASSERT(node < table->node_count);
    const struct whereabouts *from = &table->nodes[node];
    unsigned count = 0;
    if (from->has_proven)
        count = add(&from->proven, to, count, max);
    for (unsigned turn = 0; turn <= MDNS_ADDRESSES_MAX; turn++) {
        for (unsigned i = 0; i < MDNS_CLAIMS_MAX; i++) {
            const struct claim *claim = &from->claims[i];
            if (!claim->used || now_ms >= claim->until_ms || claim->address_count == 0)
                continue;
            /* In the first turn those alone that speak for themselves. */
            bool own = mdns_address_equal(&claim->addresses[0], &claim->sender);
            unsigned at = turn - !own;
            if ((turn > 0 || own) && at < claim->address_count)
                count =
                    add(&(struct mdns_endpoint){claim->addresses[at], claim->port}, to, count, max);
        }
    }
    return count;
}

static unsigned add(const struct mdns_endpoint *endpoint, struct mdns_endpoint *to, unsigned count,
                    unsigned max)
{
    for (unsigned i = 0; i < count; i++)
        if (mdns_endpoint_equal(&to[i], endpoint))
            return count;
    if (count < max)
        to[count++] = *endpoint;
    return count;
}
