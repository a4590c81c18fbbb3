/* Nodes that are nothing but netd/peers.h, on loopback, in one loop: for the test and the
 * benchmark. */
#pragma once

#include "netd/peers.h"

#define TEST_NODES_MAX 5u

struct test_cluster;

/* One node: what it was told, and what it wants to do with items. */
struct test_node {
    struct test_cluster *cluster;
    uint32_t index;
    uint64_t boot;
    struct config config;
    struct log log;
    struct peers *peers; /* NULL: not running */
    uv_timer_t timer;
    uv_prepare_t prepare;
    bool alive[TEST_NODES_MAX];
    uint64_t boots[TEST_NODES_MAX];
    unsigned ups[TEST_NODES_MAX], downs[TEST_NODES_MAX], gossips[TEST_NODES_MAX],
        gones[TEST_NODES_MAX];
    uint64_t items, item_bytes;
    /* May be NULL. */
    void (*on_item)(struct test_node *node, uint32_t from, uint64_t boot, uint32_t bucket,
                    enum relay_kind kind, struct span bytes);
    struct buf log_text; /* lines at info and above */
};

struct test_cluster {
    uv_loop_t loop;
    unsigned count;
    unsigned ports[TEST_NODES_MAX];
    char peers[512]; /* network.peers */
    char more[512];  /* further configuration, YAML */
    struct test_node nodes[TEST_NODES_MAX];
    uv_timer_t deadline;
    bool late;
};

/* Ports are free ones of the kernel's choice. Nothing runs yet. */
void test_cluster_init(struct test_cluster *cluster, unsigned count);
/* Closes what runs, and the loop; nothing may be left in it. */
void test_cluster_release(struct test_cluster *cluster);
/* With these settings on top ("cluster: {secret: ...}", or ""). */
void test_node_start(struct test_cluster *cluster, uint32_t index, uint64_t boot, const char *more);
void test_node_stop(struct test_node *node);
/* Runs the loop until `done` says so; aborts the test after `seconds`. */
void test_run_until(struct test_cluster *cluster, bool (*done)(struct test_cluster *),
                    unsigned seconds);
/* Runs the loop for so long, to see what doesn't happen meanwhile. */
void test_run_for(struct test_cluster *cluster, unsigned ms);
/* All running nodes are alive to one another. */
bool test_all_alive(struct test_cluster *cluster);
/* A connection to a node's port, of nobody in particular. */
int test_connect(const struct test_cluster *cluster, uint32_t index);
uint64_t test_memory_bytes(void);
bool test_text_has(const struct buf *text, const char *part);
