/* Announcing this node, asking for others: the sockets' events, and what goes out when. */
#include "netd/mdns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/assert.h"
#include "netd/mdns_schedule.h"
#include "netd/mdns_socket.h"
#include "netd/mdns_table.h"

#define RETRY_MS 10000u
/* Changes of interfaces come in crowds. */
#define CHANGE_MS 200u
/* Packets looked at between two ticks; then the kernel's buffer takes what it holds, and the rest
 * is lost: nobody can make this process do nothing else. */
#define PACKETS_MAX 32u
#define TWIN_MS     60000u
/* So many in a row are worth a line: an address may be too new to send from. */
#define FAILURES_MIN 3u

enum { V4, V6, FAMILIES };

/* An interface in use. */
struct link {
    struct mdns_interface interface;
    bool joined[FAMILIES];
    struct mdns_schedule schedules[FAMILIES];
    unsigned failures[FAMILIES]; /* packets in a row that couldn't be sent */
};

struct channel {
    struct mdns *mdns;
    bool v6;
    int fd; /* -1: not open */
    uv_poll_t poll;
};

struct mdns {
    uv_loop_t *loop;
    const struct log *log;
    struct mdns_self self;
    struct mdns_scope scope;
    struct mdns_table *table;
    struct channel channels[FAMILIES];
    int watch_fd;
    uv_poll_t watch;
    struct link links[MDNS_INTERFACES_MAX];
    unsigned link_count;
    bool *alive; /* by node */
    uint64_t rescan_ms, twin_ms;
    unsigned budget; /* packets until the next tick */
    bool reading;
    uint64_t random;
    char problem[128]; /* as it was logged; empty: none */
    struct buf packet;
    bool leaving;
    unsigned open_handles;
    uint64_t packets, announcements, sent;
};

static void open_watch(struct mdns *mdns);
static void on_change(uv_poll_t *poll, int status, int events);
static void rescan(struct mdns *mdns);
static bool open_channels(struct mdns *mdns);
static void take_interfaces(struct mdns *mdns, const struct mdns_interface *list, unsigned count);
static bool join(struct mdns *mdns, struct link *link);
static void say(struct mdns *mdns, const char *problem, int error);
static void on_readable(uv_poll_t *poll, int status, int events);
static void take_packet(struct mdns *mdns, const struct mdns_received *received);
static void speak(struct mdns *mdns, struct link *link, unsigned family, uint64_t now_ms);
static void send_announcement(struct mdns *mdns, struct link *link, unsigned family, bool goodbye);
static void send_query(struct mdns *mdns, struct link *link, unsigned family);
static void on_channel_closed(uv_handle_t *handle);
static void on_watch_closed(uv_handle_t *handle);
static void handle_closed(struct mdns *mdns);

static uint64_t next_random(struct mdns *mdns)
{
    mdns->random ^= mdns->random << 13;
    mdns->random ^= mdns->random >> 7;
    mdns->random ^= mdns->random << 17;
    return mdns->random;
}

struct mdns *mdns_new(uv_loop_t *loop, const struct config *config, const struct log *log,
                      const struct uuid *cluster_id)
{
    struct mdns *mdns = calloc(1, sizeof *mdns);
    ASSERT(mdns != NULL);
    *mdns = (struct mdns){.loop = loop,
                          .log = log,
                          .watch_fd = -1,
                          .reading = true,
                          .budget = PACKETS_MAX,
                          .open_handles = 1, /* the caller's */
                          .self = {.cluster_id = *cluster_id,
                                   .cluster_name = span_str(config->cluster.name),
                                   .node = config->node.index,
                                   .node_count = config->node.count}};
    bool valid = mdns_scope_parse(config->network.cluster_address, &mdns->scope);
    ASSERT(valid); /* config_address_valid */
    mdns->self.port = mdns->scope.port;
    ssize_t len;
    do
        len = getrandom(&mdns->random, sizeof mdns->random, 0);
    while (len < 0 && errno == EINTR);
    ASSERT(len == sizeof mdns->random);
    mdns_make_label(&mdns->self, mdns->random);
    mdns->random |= 1;
    mdns->table = mdns_table_new(config->node.count);
    mdns->alive = calloc(config->node.count, sizeof *mdns->alive);
    ASSERT(mdns->alive != NULL);
    mdns->alive[config->node.index] = true;
    for (unsigned family = 0; family < FAMILIES; family++)
        mdns->channels[family] = (struct channel){.mdns = mdns, .v6 = family == V6, .fd = -1};
    open_watch(mdns);
    rescan(mdns);
    return mdns;
}

void mdns_close(struct mdns *mdns)
{
    for (unsigned family = 0; family < FAMILIES; family++) {
        struct channel *channel = &mdns->channels[family];
        if (channel->fd < 0)
            continue;
        uv_close((uv_handle_t *)&channel->poll, on_channel_closed);
        close(channel->fd);
        channel->fd = -1;
    }
    if (mdns->watch_fd >= 0) {
        uv_close((uv_handle_t *)&mdns->watch, on_watch_closed);
        close(mdns->watch_fd);
    }
    handle_closed(mdns);
}

static void on_channel_closed(uv_handle_t *handle)
{
    struct channel *channel = handle->data;
    handle_closed(channel->mdns);
}

static void on_watch_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void handle_closed(struct mdns *mdns)
{
    if (--mdns->open_handles > 0)
        return;
    mdns_table_free(mdns->table);
    buf_release(&mdns->packet);
    free(mdns->alive);
    free(mdns);
}

void mdns_tick(struct mdns *mdns)
{
    uint64_t now_ms = uv_now(mdns->loop);
    if (now_ms >= mdns->rescan_ms)
        rescan(mdns);
    mdns->budget = PACKETS_MAX;
    for (unsigned family = 0; !mdns->reading && family < FAMILIES; family++)
        if (mdns->channels[family].fd >= 0)
            uv_poll_start(&mdns->channels[family].poll, UV_READABLE, on_readable);
    mdns->reading = true;
    for (unsigned i = 0; !mdns->leaving && i < mdns->link_count; i++)
        for (unsigned family = 0; family < FAMILIES; family++)
            if (mdns->links[i].joined[family])
                speak(mdns, &mdns->links[i], family, now_ms);
}

void mdns_goodbye(struct mdns *mdns)
{
    mdns->leaving = true;
    for (unsigned i = 0; i < mdns->link_count; i++)
        for (unsigned family = 0; family < FAMILIES; family++)
            if (mdns->links[i].joined[family])
                send_announcement(mdns, &mdns->links[i], family, true);
}

/* --- What is known --- */

static bool is_missing(const struct mdns *mdns)
{
    for (uint32_t node = 0; node < mdns->self.node_count; node++)
        if (!mdns->alive[node])
            return true;
    return false;
}

void mdns_set_alive(struct mdns *mdns, uint32_t node, bool alive)
{
    ASSERT(node < mdns->self.node_count && node != mdns->self.node);
    mdns->alive[node] = alive;
    bool missing = is_missing(mdns);
    for (unsigned i = 0; i < mdns->link_count; i++)
        for (unsigned family = 0; family < FAMILIES; family++)
            mdns_schedule_missing(&mdns->links[i].schedules[family], missing, !alive,
                                  uv_now(mdns->loop), next_random(mdns));
}

unsigned mdns_addresses(const struct mdns *mdns, uint32_t node, struct sockaddr_storage *to,
                        unsigned max)
{
    struct mdns_endpoint endpoints[MDNS_ENDPOINTS_MAX];
    unsigned count = mdns_table_list(mdns->table, node, uv_now(mdns->loop), endpoints,
                                     (unsigned)min_u64(max, MDNS_ENDPOINTS_MAX));
    for (unsigned i = 0; i < count; i++)
        mdns_to_sockaddr(&endpoints[i].address, endpoints[i].port, &to[i]);
    return count;
}

void mdns_prove(struct mdns *mdns, uint32_t node, const struct sockaddr *address)
{
    struct mdns_endpoint endpoint;
    if (mdns_from_sockaddr(address, &endpoint.address, &endpoint.port))
        mdns_table_prove(mdns->table, node, &endpoint);
}

void mdns_print_stats(const struct mdns *mdns, struct buf *out)
{
    buf_printf(out, "mdns_packets %lu\nmdns_announcements %lu\nmdns_sent %lu\n", mdns->packets,
               mdns->announcements, mdns->sent);
}

/* --- Interfaces --- */

/* Without it (a sandbox may refuse it) interfaces are looked at every RETRY_MS. */
static void open_watch(struct mdns *mdns)
{
    mdns->watch_fd = mdns_watch_open();
    if (mdns->watch_fd < 0)
        return;
    int error = uv_poll_init(mdns->loop, &mdns->watch, mdns->watch_fd);
    ASSERT(error == 0);
    mdns->watch.data = mdns;
    mdns->open_handles++;
    uv_poll_start(&mdns->watch, UV_READABLE, on_change);
}

static void on_change(uv_poll_t *poll, int status, int events)
{
    struct mdns *mdns = poll->data;
    (void)events;
    mdns_watch_drain(mdns->watch_fd);
    if (status != 0) /* an error, now read, has ended the watch */
        uv_poll_start(poll, UV_READABLE, on_change);
    mdns->rescan_ms = min_u64(mdns->rescan_ms, uv_now(mdns->loop) + CHANGE_MS);
}

static void rescan(struct mdns *mdns)
{
    struct mdns_interface list[MDNS_INTERFACES_MAX];
    bool good = open_channels(mdns);
    if (good) {
        int count = mdns_list_interfaces(&mdns->scope, list);
        good = count > 0;
        if (count < 0)
            say(mdns, "interfaces can't be listed", errno);
        else if (count == 0)
            say(mdns, "no interface with multicast holds an address of network.cluster_address", 0);
        if (count >= 0)
            take_interfaces(mdns, list, (unsigned)count);
    }
    bool joined = false;
    for (unsigned i = 0; good && i < mdns->link_count; i++)
        joined |= join(mdns, &mdns->links[i]);
    if (joined)
        say(mdns, NULL, 0);
    mdns->rescan_ms = joined && mdns->watch_fd >= 0 ? UINT64_MAX : uv_now(mdns->loop) + RETRY_MS;
}

/* True: one family at least. Where the kernel has no IPv6 the other one does. */
static bool open_channels(struct mdns *mdns)
{
    bool open = false;
    int error = 0;
    char text[64] = "no family";
    for (unsigned family = 0; family < FAMILIES; family++) {
        struct channel *channel = &mdns->channels[family];
        const char *step = "";
        bool wanted = family == V6 ? mdns->scope.v6 : mdns->scope.v4;
        if (wanted && channel->fd < 0) {
            channel->fd = mdns_open(channel->v6, &step);
            if (channel->fd >= 0) {
                int failed = uv_poll_init(mdns->loop, &channel->poll, channel->fd);
                ASSERT(failed == 0);
                channel->poll.data = channel;
                mdns->open_handles++;
                uv_poll_start(&channel->poll, UV_READABLE, on_readable);
            } else {
                error = errno;
                snprintf(text, sizeof text, "%s of port %u", step, MDNS_PORT);
            }
        }
        open |= channel->fd >= 0;
    }
    if (!open)
        say(mdns, text, error);
    return open;
}

static bool same_interface(const struct mdns_interface *a, const struct mdns_interface *b)
{
    bool same = a->index == b->index && a->address_count == b->address_count;
    for (unsigned i = 0; same && i < a->address_count; i++)
        same = mdns_address_equal(&a->addresses[i], &b->addresses[i]);
    return same;
}

static void leave(struct mdns *mdns, struct link *link, unsigned family)
{
    if (link->joined[family])
        (void)mdns_leave(mdns->channels[family].fd, family == V6, &link->interface);
    link->joined[family] = false;
}

/* Links that stay keep their place in the schedule; who has other addresses begins anew. */
static void take_interfaces(struct mdns *mdns, const struct mdns_interface *list, unsigned count)
{
    struct link links[MDNS_INTERFACES_MAX] = {0};
    bool kept[MDNS_INTERFACES_MAX] = {false};
    uint64_t now_ms = uv_now(mdns->loop);
    for (unsigned i = 0; i < count; i++) {
        struct link *link = &links[i];
        bool fresh = true;
        for (unsigned k = 0; k < mdns->link_count; k++) {
            const struct link *old = &mdns->links[k];
            if (old->interface.index != list[i].index)
                continue;
            *link = *old;
            kept[k] = true;
            fresh = !same_interface(&old->interface, &list[i]);
        }
        link->interface = list[i];
        for (unsigned family = 0; fresh && family < FAMILIES; family++) {
            mdns_schedule_missing(&link->schedules[family], is_missing(mdns), false, now_ms,
                                  next_random(mdns));
            mdns_schedule_start(&link->schedules[family], now_ms, next_random(mdns));
        }
    }
    for (unsigned k = 0; k < mdns->link_count; k++)
        for (unsigned family = 0; !kept[k] && family < FAMILIES; family++)
            leave(mdns, &mdns->links[k], family);
    memcpy(mdns->links, links, sizeof links);
    mdns->link_count = count;
}

static bool join(struct mdns *mdns, struct link *link)
{
    for (unsigned family = 0; family < FAMILIES; family++) {
        const struct channel *channel = &mdns->channels[family];
        bool has = family == V6 ? link->interface.v6 : link->interface.v4;
        if (!has)
            leave(mdns, link, family);
        if (channel->fd < 0 || !has || link->joined[family])
            continue;
        link->joined[family] = mdns_join(channel->fd, channel->v6, &link->interface);
        if (!link->joined[family]) {
            char text[64];
            snprintf(text, sizeof text, "group on %s", link->interface.name);
            say(mdns, text, errno);
        }
    }
    return link->joined[V4] || link->joined[V6];
}

/* One line for each change; NULL: all is well. */
static void say(struct mdns *mdns, const char *problem, int error)
{
    char text[sizeof mdns->problem] = "";
    if (problem != NULL)
        snprintf(text, sizeof text, "%s%s%s", problem, error != 0 ? ": " : "",
                 error != 0 ? strerror(error) : "");
    if (problem == NULL)
        log_debug(mdns->log, "mdns.interfaces", "count=%u first=%s", mdns->link_count,
                  mdns->links[0].interface.name);
    if (strcmp(text, mdns->problem) == 0)
        return;
    memcpy(mdns->problem, text, sizeof text);
    if (problem != NULL)
        log_warn(mdns->log, "mdns.unavailable", "error=\"%s\" retry_ms=%u", text, RETRY_MS);
    else
        log_info(mdns->log, "mdns.available", "interfaces=%u", mdns->link_count);
}

/* --- Packets in --- */

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct channel *channel = poll->data;
    struct mdns *mdns = channel->mdns;
    uint8_t room[MDNS_PACKET_BYTES_MAX];
    struct mdns_received received;
    (void)events;
    while (mdns->budget > 0 && mdns_receive(channel->fd, channel->v6, room, &received)) {
        mdns->budget--;
        mdns->packets++;
        if (received.wanted)
            take_packet(mdns, &received);
    }
    /* An error of the socket (a network that went down) is read by now; it has ended the poll. */
    if (mdns->budget > 0 && status == 0)
        return;
    mdns->reading = false;
    for (unsigned family = 0; family < FAMILIES; family++)
        if (mdns->channels[family].fd >= 0)
            uv_poll_stop(&mdns->channels[family].poll);
}

static bool is_link_local(const struct mdns_address *address)
{
    return address->v6 && address->ip[0] == 0xfe && (address->ip[1] & 0xc0) == 0x80;
}

static void on_twin(struct mdns *mdns, const struct mdns_address *sender)
{
    char text[INET6_ADDRSTRLEN] = "?";
    uint64_t now_ms = uv_now(mdns->loop);
    if (mdns->twin_ms != 0 && now_ms - mdns->twin_ms < TWIN_MS)
        return;
    mdns->twin_ms = max_u64(now_ms, 1);
    inet_ntop(sender->v6 ? AF_INET6 : AF_INET, sender->ip, text, sizeof text);
    log_warn(mdns->log, "mdns.same_index", "node=%u source=%s", mdns->self.node, text);
}

static void take_packet(struct mdns *mdns, const struct mdns_received *received)
{
    struct mdns_announcement heard;
    struct link *link = NULL;
    uint64_t now_ms = uv_now(mdns->loop);
    for (unsigned i = 0; i < mdns->link_count; i++)
        if (mdns->links[i].interface.index == received->interface)
            link = &mdns->links[i];
    if (link == NULL)
        return;
    switch (mdns_read(received->packet, &mdns->self, &heard)) {
    case MDNS_ASKS:
        mdns_schedule_asked(&link->schedules[received->sender.v6 ? V6 : V4], now_ms,
                            next_random(mdns));
        break;
    case MDNS_ANNOUNCES:
        mdns->announcements++;
        for (unsigned i = 0; i < heard.address_count; i++)
            if (is_link_local(&heard.addresses[i]))
                heard.addresses[i].scope = received->interface;
        if (mdns_table_take(mdns->table, &heard, &received->sender, now_ms))
            log_debug(mdns->log, "mdns.heard", "node=%u port=%u addresses=%u", heard.node,
                      heard.port, heard.address_count);
        break;
    case MDNS_TWIN:
        on_twin(mdns, &received->sender);
        break;
    case MDNS_OWN:
    case MDNS_NOTHING:
        break;
    }
}

/* --- Packets out --- */

static void speak(struct mdns *mdns, struct link *link, unsigned family, uint64_t now_ms)
{
    if (mdns_schedule_announce(&link->schedules[family], now_ms))
        send_announcement(mdns, link, family, false);
    if (mdns_schedule_ask(&link->schedules[family], now_ms))
        send_query(mdns, link, family);
}

static void send_packet(struct mdns *mdns, struct link *link, unsigned family)
{
    bool sent = mdns_send(mdns->channels[family].fd, family == V6, &link->interface,
                          buf_span(&mdns->packet));
    mdns->sent += sent;
    link->failures[family] = sent ? 0 : link->failures[family] + 1;
    if (link->failures[family] == FAILURES_MIN)
        log_warn(mdns->log, "mdns.send_failed", "interface=%s family=%s error=\"%s\"",
                 link->interface.name, family == V6 ? "v6" : "v4", strerror(errno));
}

static void send_announcement(struct mdns *mdns, struct link *link, unsigned family, bool goodbye)
{
    mdns->packet.len = 0;
    mdns_write_announcement(&mdns->packet, &mdns->self, link->interface.addresses,
                            link->interface.address_count, goodbye);
    send_packet(mdns, link, family);
}

static void send_query(struct mdns *mdns, struct link *link, unsigned family)
{
    uint32_t wanted[MDNS_WANTED_MAX];
    unsigned count = 0;
    for (uint32_t node = 0; node < mdns->self.node_count; node++) {
        if (mdns->alive[node])
            continue;
        if (count == MDNS_WANTED_MAX) {
            count = 0; /* all of them are asked */
            break;
        }
        wanted[count++] = node;
    }
    mdns->packet.len = 0;
    mdns_write_query(&mdns->packet, &mdns->self, wanted, count);
    send_packet(mdns, link, family);
}
