/* Nodes on loopback: their configuration, their turns, and what they hear. */
#include "tests/unit/netd/peers_support.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/assert.h"

#define TICK_MS 20u

static int loopback_socket(unsigned port, bool listening)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT(fd >= 0);
    int error = listening ? bind(fd, (struct sockaddr *)&at, sizeof at)
                          : connect(fd, (struct sockaddr *)&at, sizeof at);
    ASSERT(error == 0);
    return fd;
}

void test_cluster_init(struct test_cluster *cluster, unsigned count)
{
    ASSERT(count <= TEST_NODES_MAX);
    *cluster = (struct test_cluster){.count = count};
    signal(SIGPIPE, SIG_IGN); /* as all processes of a node do */
    int fds[TEST_NODES_MAX];
    size_t len = 0;
    for (unsigned i = 0; i < count; i++) {
        struct sockaddr_in at;
        socklen_t at_len = sizeof at;
        fds[i] = loopback_socket(0, true);
        ASSERT(getsockname(fds[i], (struct sockaddr *)&at, &at_len) == 0);
        cluster->ports[i] = ntohs(at.sin_port);
        /* One of them by name. */
        len += (size_t)snprintf(cluster->peers + len, sizeof cluster->peers - len, "%s%s:%u",
                                i > 0 ? "," : "", i == 1 ? "localhost" : "127.0.0.1",
                                cluster->ports[i]);
    }
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
    ASSERT(uv_loop_init(&cluster->loop) == 0);
    ASSERT(uv_timer_init(&cluster->loop, &cluster->deadline) == 0);
    cluster->deadline.data = cluster;
}

void test_cluster_release(struct test_cluster *cluster)
{
    for (unsigned i = 0; i < cluster->count; i++) {
        if (cluster->nodes[i].peers != NULL)
            test_node_stop(&cluster->nodes[i]);
        buf_release(&cluster->nodes[i].log_text);
    }
    uv_close((uv_handle_t *)&cluster->deadline, NULL);
    uv_run(&cluster->loop, UV_RUN_DEFAULT);
    ASSERT(uv_loop_close(&cluster->loop) == 0);
}

/* --- One node --- */

static void keep_line(void *ctx, enum log_level level, const char *line)
{
    struct test_node *node = ctx;
    (void)level;
    buf_printf(&node->log_text, "%s\n", line);
}

static void on_node(void *ctx, uint32_t from, uint64_t boot, bool alive)
{
    struct test_node *node = ctx;
    ASSERT(node->alive[from] != alive);
    ASSERT(alive || node->boots[from] == boot);
    node->alive[from] = alive;
    node->boots[from] = boot;
    *(alive ? &node->ups[from] : &node->downs[from]) += 1;
    ASSERT(peers_boot(node->peers, from) == (alive ? boot : 0));
}

static void on_gossip(void *ctx, uint32_t from)
{
    struct test_node *node = ctx;
    node->gossips[from]++;
}

static void on_item(void *ctx, uint32_t from, uint64_t boot, uint32_t bucket, enum relay_kind kind,
                    struct span bytes)
{
    struct test_node *node = ctx;
    ASSERT(node->alive[from] && node->boots[from] == boot);
    node->items++;
    node->item_bytes += bytes.len;
    if (node->on_item != NULL)
        node->on_item(node, from, boot, bucket, kind, bytes);
}

static void on_gone(void *ctx, uint32_t of)
{
    struct test_node *node = ctx;
    ASSERT(!node->alive[of]);
    node->gones[of]++;
}

static void on_timer(uv_timer_t *timer)
{
    struct test_node *node = timer->data;
    peers_tick(node->peers);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct test_node *node = prepare->data;
    peers_flush(node->peers);
}

void test_node_start(struct test_cluster *cluster, uint32_t index, uint64_t boot, const char *more)
{
    struct test_node *node = &cluster->nodes[index];
    struct buf text = {0}, error = {0};
    config_init(&node->config);
    buf_printf(&text,
               "cluster: {secret: 'the secret of the test'}\nnode: {index: %u}\n"
               "network: {cluster_address: '127.0.0.1:%u', peers: '%s'}\n"
               "heartbeat: {interval_ms: 100, timeout_ms: 1500}\n",
               index, cluster->ports[index], cluster->peers);
    ASSERT(config_parse(&node->config, buf_span(&text), "test", &error) == ERR_OK);
    ASSERT(config_parse(&node->config, span_str(more), "more", &error) == ERR_OK);
    ASSERT(config_finish(&node->config, &error) == ERR_OK);
    buf_release(&text);
    node->cluster = cluster;
    node->index = index;
    node->boot = boot;
    node->log = (struct log){.level = LOG_INFO, .sink = keep_line, .sink_ctx = node};
    snprintf(node->log.proc, sizeof node->log.proc, "node-%u", index);
    struct peers_callbacks callbacks = {.ctx = node,
                                        .on_item = on_item,
                                        .on_node = on_node,
                                        .on_gone = on_gone,
                                        .on_gossip = on_gossip};
    struct peers_config config = {
        .config = &node->config,
        .log = &node->log,
        .cluster_id = uuid_of_cluster(span_str(node->config.cluster.name)),
        .boot = boot,
        .age_ms = 1000 + index,
    };
    ASSERT(peers_new(&cluster->loop, &config, &callbacks, &node->peers) == ERR_OK);
    ASSERT(uv_timer_init(&cluster->loop, &node->timer) == 0);
    ASSERT(uv_prepare_init(&cluster->loop, &node->prepare) == 0);
    node->timer.data = node->prepare.data = node;
    uv_timer_start(&node->timer, on_timer, 0, TICK_MS);
    uv_prepare_start(&node->prepare, on_prepare);
}

static void count_closed(uv_handle_t *handle)
{
    struct test_node *node = handle->data;
    node->boot++;
}

void test_node_stop(struct test_node *node)
{
    peers_close(node->peers);
    node->peers = NULL;
    node->boot = 0;
    uv_close((uv_handle_t *)&node->timer, count_closed);
    uv_close((uv_handle_t *)&node->prepare, count_closed);
    while (node->boot < 2)
        uv_run(&node->cluster->loop, UV_RUN_ONCE);
    config_release(&node->config);
    memset(node->alive, 0, sizeof node->alive);
}

/* --- Time --- */

static void on_deadline(uv_timer_t *timer)
{
    struct test_cluster *cluster = timer->data;
    cluster->late = true;
}

void test_run_until(struct test_cluster *cluster, bool (*done)(struct test_cluster *),
                    unsigned seconds)
{
    cluster->late = false;
    uv_update_time(&cluster->loop);
    uv_timer_start(&cluster->deadline, on_deadline, seconds * 1000, 0);
    while (!done(cluster)) {
        if (cluster->late) {
            for (unsigned i = 0; i < cluster->count; i++)
                fprintf(stderr, "%.*s", (int)cluster->nodes[i].log_text.len,
                        (char *)cluster->nodes[i].log_text.ptr);
            bool waited_too_long = true;
            ASSERT(!waited_too_long);
        }
        uv_run(&cluster->loop, UV_RUN_ONCE);
    }
    uv_timer_stop(&cluster->deadline);
}

void test_run_for(struct test_cluster *cluster, unsigned ms)
{
    cluster->late = false;
    uv_update_time(&cluster->loop);
    uv_timer_start(&cluster->deadline, on_deadline, ms, 0);
    while (!cluster->late)
        uv_run(&cluster->loop, UV_RUN_ONCE);
}

bool test_all_alive(struct test_cluster *cluster)
{
    for (unsigned a = 0; a < cluster->count; a++) {
        for (unsigned b = 0; b < cluster->count; b++) {
            if (a != b && cluster->nodes[a].peers != NULL && cluster->nodes[b].peers != NULL &&
                !cluster->nodes[a].alive[b])
                return false;
        }
    }
    return true;
}

int test_connect(const struct test_cluster *cluster, uint32_t index)
{
    return loopback_socket(cluster->ports[index], false);
}

uint64_t test_memory_bytes(void)
{
#ifdef __SANITIZE_ADDRESS__
    return 0; /* ASan keeps what is freed */
#endif
    unsigned long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    ASSERT(file != NULL && fscanf(file, "%lu %lu", &size, &resident) == 2);
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

bool test_text_has(const struct buf *text, const char *part)
{
    return text->len > 0 && memmem(text->ptr, text->len, part, strlen(part)) != NULL;
}
