/* The network daemon: accepting, the turn, stopping. */
#include "netd/netd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/assert.h"
#include "netd/command.h"

#define LISTEN_BACKLOG   1024
#define TICK_MS          50u
#define TRIM_INTERVAL_MS 1000u
/* So much given back at once is worth a walk through the heap. */
#define TRIM_HEAP_BYTES (16u << 20)
/* A pause in accepting is logged at most this often. */
#define ACCEPT_WARNING_MS 10000u
/* New connections taken at one wake-up. */
#define ACCEPTS_MAX 64u
/* Open files that clients' connections leave alone: links to buckets and the supervisor, the loop's
 * own, strangers on the nodes' port; and for each other node its connections and tries. */
#define OWN_FILES      (64u + PEER_STRANGERS_MAX)
#define FILES_PER_NODE 4u

static void limit_clients(struct netd *netd);
static void start_turns(struct netd *netd);
static void on_prepare(uv_prepare_t *handle);
static void on_check(uv_check_t *handle);
static void on_timer(uv_timer_t *handle);
static void trim_clients(struct netd *netd, uint64_t now);
static void turn(struct netd *netd);
static void wake_stalled(struct netd *netd);
static void leave_if_quiet(struct netd *netd);
static void on_connection(uv_poll_t *handle, int status, int events);
static void pause_accept(struct netd *netd, int error);
static void accept_one(struct netd *netd, int fd, const struct sockaddr_storage *address);
static bool parse_address(const char *text, struct sockaddr_storage *ret_address,
                          socklen_t *ret_len);
static void on_bucket_up(void *ctx, uint32_t bucket);
static void on_bucket_lost(void *ctx, uint32_t bucket);
static bool send_remote(void *ctx, uint32_t node, uint32_t bucket, struct span bytes);
static void on_local(void *ctx, uint32_t bucket, bool up);
static void on_local_message(void *ctx, uint32_t bucket, const struct msg *msg);
static void on_tail(void *ctx, const struct msg_tail *tail);
static void on_link_state(void *ctx, uint64_t link, bool up);
static void tail_submit(void *ctx, uint32_t partition, struct call *call);
static void tail_cancel(void *ctx, struct call *call);
static void tail_unfollow(void *ctx, uint32_t partition);
static bool tail_is_down(void *ctx, uint32_t partition);
static struct buf *tail_push_room(void *ctx, void *owner);
static void tail_damaged(void *ctx, uint32_t partition, struct span text);

enum err netd_init(struct netd *netd, uv_loop_t *loop, const struct config *config,
                   const struct log *log, const struct child_args *args)
{
    *netd = (struct netd){.loop = loop, .config = config, .log = log, .listen_fd = -1};
    /* As the buckets hold it: a part of a segment at most. */
    netd->event_bytes_max = min_u64(config->append.max_event_bytes, config->segment.size_bytes / 4);
    netd->transaction_bytes_max =
        min_u64(config->append.max_transaction_bytes, config->segment.size_bytes / 4);
    netd->started_ms = uv_now(loop);
    limit_clients(netd);
    struct uuid id = uuid_random(netd_random(netd, 16));
    uuid_format(&id, netd->node_id);
    netd->router = router_new(loop, config, log, args->boot,
                              &(struct router_callbacks){
                                  .ctx = netd,
                                  .on_bucket_up = on_bucket_up,
                                  .on_bucket_lost = on_bucket_lost,
                                  .send = send_remote,
                                  .on_local = on_local,
                                  .on_local_message = on_local_message,
                                  .on_tail = on_tail,
                                  .on_link_state = on_link_state,
                              });
    netd->hubs = hubs_new(config->partition.count, &(struct tail_ops){
                                                       .ctx = netd,
                                                       .submit = tail_submit,
                                                       .cancel = tail_cancel,
                                                       .unfollow = tail_unfollow,
                                                       .partition_is_down = tail_is_down,
                                                       .created = subscribe_created,
                                                       .push_room = tail_push_room,
                                                       .damaged = tail_damaged,
                                                   });
    struct cluster_config cluster = {.loop = loop,
                                     .config = config,
                                     .log = log,
                                     .router = netd->router,
                                     .cluster_id = args->cluster_id,
                                     .boot = args->boot,
                                     .age_ms = args->age_ms};
    enum err err = cluster_new(&cluster, &netd->cluster);
    if (err == ERR_OK)
        start_turns(netd);
    return err;
}

/* Clients must not take the files that links to other nodes and processes need. */
static void limit_clients(struct netd *netd)
{
    const struct config *c = netd->config;
    uint64_t own = OWN_FILES + c->bucket.count + FILES_PER_NODE * (c->node.count - 1);
    struct rlimit files;
    netd->clients_max = c->network.max_clients;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= netd->clients_max + own)
        return;
    netd->clients_max = files.rlim_cur > own ? files.rlim_cur - own : 1;
    log_warn(netd->log, "clients.limited",
             "clients=%lu configured=%lu open_files=%lu needed=%lu reason=\"the hard limit of open "
             "files (ulimit -Hn, LimitNOFILE) is too low for network.max_clients\"",
             netd->clients_max, c->network.max_clients, files.rlim_cur,
             c->network.max_clients + own);
}

static void start_turns(struct netd *netd)
{
    uv_loop_t *loop = netd->loop;
    uv_prepare_init(loop, &netd->prepare);
    uv_check_init(loop, &netd->check);
    uv_timer_init(loop, &netd->timer);
    netd->prepare.data = netd->check.data = netd->timer.data = netd;
    /* Both: timers run before the poll, everything else after it (a turn ends where the loop may
     * sleep). */
    uv_prepare_start(&netd->prepare, on_prepare);
    uv_check_start(&netd->check, on_check);
    uv_timer_start(&netd->timer, on_timer, TICK_MS, TICK_MS);
}

enum err netd_listen(struct netd *netd)
{
    struct sockaddr_storage address;
    socklen_t len;
    const char *text = netd->config->network.client_address;
    if (!parse_address(text, &address, &len)) {
        log_error(netd->log, "listen.failed", "address=\"%s\" error=\"not an address\"", text);
        return ERR_IO;
    }
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (struct sockaddr *)&address, len) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
        log_error(netd->log, "listen.failed", "address=\"%s\" error=\"%s\"", text, strerror(errno));
        if (fd >= 0)
            close(fd);
        return ERR_IO;
    }
    netd->listen_fd = fd;
    int error = uv_poll_init(netd->loop, &netd->listen_poll, fd);
    ASSERT(error == 0);
    netd->listen_poll.data = netd;
    netd->accepting = true;
    uv_poll_start(&netd->listen_poll, UV_READABLE, on_connection);
    log_debug(netd->log, "listen.started", "address=\"%s\"", text);
    return ERR_OK;
}

void netd_stop(struct netd *netd, uint64_t deadline_ms)
{
    netd->stopping = true;
    netd->stop_at_ms = netd_now_ms(netd) + deadline_ms;
    if (netd->listen_fd >= 0) {
        uv_poll_stop(&netd->listen_poll);
        uv_close((uv_handle_t *)&netd->listen_poll, NULL);
        close(netd->listen_fd);
        netd->listen_fd = -1;
    }
    cluster_stop(netd->cluster);
    log_info(netd->log, "stop.begun", "clients=%lu", netd->client_count);
}

void netd_print_stats(struct netd *netd, struct buf *out)
{
    const struct netd_stats *stats = &netd->stats;
    struct router_stats router;
    router_get_stats(netd->router, &router);
    buf_printf(out,
               "clients %lu\nsubscriptions %lu\nconnections %lu\nrejected %lu\ncommands "
               "%lu\nerrors %lu\nappends %lu\n"
               "events %lu\nevents_read %lu\nevents_pushed %lu\nbytes_in %lu\nbytes_out "
               "%lu\nappend_frames %lu\n"
               "appends_in_frames %lu\nappends_sent_again %lu\nappends_waiting %lu\nbytes_waiting "
               "%lu\nmemory_bytes %lu\n",
               netd->client_count, hubs_subscriptions(netd->hubs), stats->connections,
               stats->rejected, stats->commands, stats->errors, stats->appends,
               stats->events_appended, stats->events_read, hubs_pushed(netd->hubs), stats->bytes_in,
               stats->bytes_out, router.frames, router.frame_appends, router.resent,
               router.queued_appends, router.queued_bytes, netd_memory_bytes());
    cluster_print_stats(netd->cluster, out);
}

uint64_t netd_now_ms(const struct netd *netd)
{
    return uv_now(netd->loop);
}

uint64_t netd_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

const uint8_t *netd_random(struct netd *netd, size_t len)
{
    ASSERT(len <= sizeof netd->random);
    if (netd->random_left < len) {
        for (size_t got = 0; got < sizeof netd->random;) {
            ssize_t n = getrandom(netd->random + got, sizeof netd->random - got, 0);
            ASSERT(n > 0 || errno == EINTR);
            got += n > 0 ? (size_t)n : 0;
        }
        netd->random_left = sizeof netd->random;
    }
    netd->random_left -= len;
    return netd->random + netd->random_left;
}

uint64_t netd_memory_bytes(void)
{
    char text[64] = {0};
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    const char *resident = len > 0 ? strchr(text, ' ') : NULL;
    return resident == NULL ? 0 : strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

void netd_resume_accept(struct netd *netd)
{
    if (netd->listen_fd < 0 || netd->accepting)
        return;
    netd->accepting = true;
    uv_poll_start(&netd->listen_poll, UV_READABLE, on_connection);
}

static void on_prepare(uv_prepare_t *handle)
{
    turn(handle->data);
}

static void on_check(uv_check_t *handle)
{
    turn(handle->data);
}

static void on_timer(uv_timer_t *handle)
{
    struct netd *netd = handle->data;
    uint64_t now = netd_now_ms(netd);
    router_tick(netd->router, now);
    cluster_tick(netd->cluster, netd->stats.commands);
    hubs_tick(netd->hubs, now);
    netd_resume_accept(netd);
    if (now >= netd->trim_at_ms) {
        netd->trim_at_ms = now + TRIM_INTERVAL_MS;
        trim_clients(netd, now);
    }
}

/* Idle connections hold no buffers, so that ten thousand of them cost little. */
static void trim_clients(struct netd *netd, uint64_t now)
{
    size_t released = 0;
    for (struct client *client = netd->clients; client != NULL; client = client->next)
        released += client_trim(client, now);
    if (released >= TRIM_HEAP_BYTES)
        malloc_trim(0);
}

/* The end of a turn. Calls leave before replies are written: the buckets can work meanwhile. */
static void turn(struct netd *netd)
{
    do {
        struct client *dirty = netd->dirty;
        netd->dirty = NULL;
        if (router_take_room_made(netd->router))
            wake_stalled(netd);
        for (struct client *client = dirty; client != NULL; client = client->dirty_next)
            if (client->wake && !client->closing)
                client_process(client);
        router_flush(netd->router, netd_now_ms(netd));
        for (struct client *client = dirty, *next; client != NULL; client = next) {
            next = client->dirty_next;
            client->is_dirty = false;
            if (!client->closing)
                client_write(client);
            if (client->closing && !client->is_dirty)
                client_reap(client);
        }
    } while (netd->dirty != NULL);
    router_flush(netd->router, netd_now_ms(netd));
    cluster_flush(netd->cluster);
    leave_if_quiet(netd);
    if (netd->child != NULL)
        child_flush(netd->child);
}

static void wake_stalled(struct netd *netd)
{
    struct client *client = netd->stalled;
    netd->stalled = NULL;
    for (struct client *next; client != NULL; client = next) {
        next = client->stalled_next;
        client->is_stalled = false;
        client_mark(client, true);
    }
}

static void leave_if_quiet(struct netd *netd)
{
    if (!netd->stopping || netd->said_bye || netd->child == NULL)
        return;
    if (netd_now_ms(netd) < netd->stop_at_ms) {
        for (const struct client *client = netd->clients; client != NULL; client = client->next)
            if (!client_is_quiet(client))
                return;
        if (!cluster_flushed(netd->cluster))
            return;
    }
    for (struct client *client = netd->clients; client != NULL; client = client->next)
        client_hang_up(client);
    netd->said_bye = true;
    log_debug(netd->log, "stop.done", "clients=%lu", netd->client_count);
    child_bye(netd->child);
}

static void on_connection(uv_poll_t *handle, int status, int events)
{
    struct netd *netd = handle->data;
    (void)events;
    for (unsigned i = 0; status == 0 && i < ACCEPTS_MAX; i++) {
        struct sockaddr_storage address;
        socklen_t len = sizeof address;
        int fd = accept4(netd->listen_fd, (struct sockaddr *)&address, &len,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            accept_one(netd, fd, &address);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The connection stays in the backlog: spinning on it would not help. The tick, or a
             * client's end, resumes. */
            pause_accept(netd, errno);
            return;
        }
        if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

static void pause_accept(struct netd *netd, int error)
{
    netd->accepting = false;
    uv_poll_stop(&netd->listen_poll);
    if (netd_now_ms(netd) < netd->accept_warning_at_ms)
        return;
    netd->accept_warning_at_ms = netd_now_ms(netd) + ACCEPT_WARNING_MS;
    log_warn(netd->log, "accept.paused", "clients=%lu error=\"%s\"", netd->client_count,
             strerror(error));
}

static void accept_one(struct netd *netd, int fd, const struct sockaddr_storage *address)
{
    char ip[INET6_ADDRSTRLEN] = "", text[64];
    if (netd->client_count >= netd->clients_max) {
        static const char refusal[] = "-ERR max number of clients reached\r\n";
        netd->stats.rejected++;
        ssize_t sent = send(fd, refusal, sizeof refusal - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)sent; /* it is a courtesy */
        close(fd);
        return;
    }
    if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
        snprintf(text, sizeof text, "[%s]:%u", ip, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
        snprintf(text, sizeof text, "%s:%u", ip, ntohs(in->sin_port));
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    client_new(netd, fd, text);
}

/* ip:port, [v6]:port, or :port for any address. */
static bool parse_address(const char *text, struct sockaddr_storage *ret_address,
                          socklen_t *ret_len)
{
    const char *colon = strrchr(text, ':');
    char host[64], *end;
    if (colon == NULL || (size_t)(colon - text) >= sizeof host)
        return false;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] == '\0' || *end != '\0' || port > 65535)
        return false;
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    memset(ret_address, 0, sizeof *ret_address);
    size_t len = strlen(host);
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_address;
        host[len - 1] = '\0';
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        *ret_len = sizeof *in6;
        return inet_pton(AF_INET6, host + 1, &in6->sin6_addr) == 1;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)ret_address;
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)port);
    in->sin_addr.s_addr = htonl(INADDR_ANY);
    *ret_len = sizeof *in;
    return len == 0 || inet_pton(AF_INET, host, &in->sin_addr) == 1;
}

static void on_bucket_up(void *ctx, uint32_t bucket)
{
    struct netd *netd = ctx;
    hubs_on_bucket_up(netd->hubs, bucket, netd->config->bucket.count);
}

static void on_bucket_lost(void *ctx, uint32_t bucket)
{
    struct netd *netd = ctx;
    hubs_on_bucket_lost(netd->hubs, bucket, netd->config->bucket.count);
}

static bool send_remote(void *ctx, uint32_t node, uint32_t bucket, struct span bytes)
{
    struct netd *netd = ctx;
    return cluster_send(netd->cluster, node, bucket, bytes);
}

static void on_local(void *ctx, uint32_t bucket, bool up)
{
    struct netd *netd = ctx;
    cluster_on_local(netd->cluster, bucket, up);
}

static void on_local_message(void *ctx, uint32_t bucket, const struct msg *msg)
{
    struct netd *netd = ctx;
    cluster_on_local_message(netd->cluster, bucket, msg);
}

static void on_tail(void *ctx, const struct msg_tail *tail)
{
    struct netd *netd = ctx;
    hubs_on_tail(netd->hubs, tail);
}

static void on_link_state(void *ctx, uint64_t link, bool up)
{
    struct netd *netd = ctx;
    if (netd->child != NULL)
        child_link_state(netd->child, link, up);
}

static void tail_submit(void *ctx, uint32_t partition, struct call *call)
{
    struct netd *netd = ctx;
    router_submit(netd->router, partition % netd->config->bucket.count, call);
}

static void tail_cancel(void *ctx, struct call *call)
{
    struct netd *netd = ctx;
    router_cancel(netd->router, call);
}

static void tail_unfollow(void *ctx, uint32_t partition)
{
    struct netd *netd = ctx;
    router_unfollow(netd->router, partition % netd->config->bucket.count, partition);
}

static bool tail_is_down(void *ctx, uint32_t partition)
{
    struct netd *netd = ctx;
    return router_bucket_is_down(netd->router, partition % netd->config->bucket.count);
}

static struct buf *tail_push_room(void *ctx, void *owner)
{
    (void)ctx;
    return client_push_room(owner);
}

static void tail_damaged(void *ctx, uint32_t partition, struct span text)
{
    struct netd *netd = ctx;
    log_warn(netd->log, "tail.read_failed", "partition=%u error=\"%.*s\"", partition, (int)text.len,
             text.len > 0 ? (const char *)text.ptr : "");
}
