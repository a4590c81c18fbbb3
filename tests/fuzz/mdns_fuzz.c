/* Packets of multicast DNS, from anybody in the network: read, and what they claim is kept.
 * Whatever is believed keeps to its bounds. The first byte says who sends: so claims of several
 * senders meet in one table, which lasts for a while. */
#include <stdlib.h>

#include "common/assert.h"
#include "netd/mdns_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static struct mdns_self make_self(void)
{
    struct mdns_self self = {.cluster_id = {{1}},
                             .cluster_name = span_str("fuzz"),
                             .node = 0,
                             .node_count = 3,
                             .port = 9190};
    mdns_make_label(&self, 0x0123456789abcdefu);
    return self;
}

static void check_list(const struct mdns_table *table, uint64_t now_ms)
{
    struct mdns_endpoint list[MDNS_ENDPOINTS_MAX];
    for (uint32_t node = 0; node < 3; node++) {
        unsigned count = mdns_table_list(table, node, now_ms, list, MDNS_ENDPOINTS_MAX);
        ASSERT(count <= MDNS_ENDPOINTS_MAX && (node != 0 || count == 0));
        for (unsigned i = 0; i < count; i++) {
            ASSERT(list[i].port != 0);
            for (unsigned k = 0; k < i; k++)
                ASSERT(!mdns_endpoint_equal(&list[i], &list[k]));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static struct mdns_table *table;
    static uint64_t now_ms;
    if (len == 0)
        return 0;
    if (now_ms % 1000 == 0) {
        mdns_table_free(table);
        table = mdns_table_new(3);
    }
    now_ms++;
    struct mdns_self self = make_self();
    struct mdns_announcement heard;
    struct mdns_address sender = {.ip = {10, 0, 0, bytes[0]}};
    /* In memory of its own, so that a byte too far is seen. */
    uint8_t *packet = malloc(len - 1 > 0 ? len - 1 : 1);
    ASSERT(packet != NULL);
    memcpy(packet, bytes + 1, len - 1);
    if (mdns_read(span_of(packet, len - 1), &self, &heard) == MDNS_ANNOUNCES) {
        ASSERT(heard.node > 0 && heard.node < 3 && heard.port != 0);
        ASSERT(heard.address_count <= MDNS_ADDRESSES_MAX && heard.ttl_s <= MDNS_TTL_S);
        (void)mdns_table_take(table, &heard, &sender, now_ms);
        check_list(table, now_ms);
    }
    free(packet);
    return 0;
}
