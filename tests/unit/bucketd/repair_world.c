/* Three replicas' logs and what repairs them: see repair_world.h. */
#include "tests/unit/bucketd/repair_world.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"

/* --- the environment of a node --- */

static struct node *node_of(struct env *env)
{
    return (struct node *)(void *)((uint8_t *)env - offsetof(struct node, env));
}

static uint64_t node_now(struct env *env)
{
    return node_of(env)->world->now_ns;
}

static void node_random(struct env *env, void *to, size_t len)
{
    memset(to, 1 + (int)node_of(env)->number, len);
}

static void node_submit(struct env *env, struct job *job)
{
    struct env *mem_env = &node_of(env)->mem->env;
    mem_env->ops->submit(mem_env, job);
}

static struct buf *node_peer(struct env *env, uint32_t to)
{
    ck_assert_uint_lt(to, NODES);
    return &node_of(env)->out[to];
}

static void node_fatal(struct env *env, enum err err, const char *what)
{
    struct node *node = node_of(env);
    (void)what;
    if (!node->fatal)
        node->fatal_err = err;
    node->fatal = true;
}

static enum err node_replace_disk(struct env *env, const char *what)
{
    node_fatal(env, ERR_CORRUPT, what);
    node_of(env)->gave_up = true;
    return ERR_OK;
}

/* --- logs --- */

uint64_t world_pick(struct world *world, uint64_t below)
{
    uint64_t z = world->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % below;
}

static struct wal_config config_of(const struct node *node)
{
    struct wal_config config = node->world->made->config;
    config.node = node->number;
    return config;
}

static bool may_replace(void *ctx, uint64_t segment)
{
    struct node *node = ctx;
    ck_assert_uint_lt(segment, wal_segment(node->wal));
    if (node->refuse_replace == 0)
        return true;
    node->refuse_replace--;
    return false;
}

static void on_replaced(void *ctx, uint64_t segment, struct index *index)
{
    struct node *node = ctx;
    node->replaced++;
    node->last_replaced = segment;
    if (node->index != NULL)
        index_free(node->index, &node->mem->disk);
    node->index = index;
}

static bool leads(void *ctx)
{
    return ((struct node *)ctx)->leads;
}

static bool led_by_another(void *ctx)
{
    const struct node *node = ctx;
    bool led = false;
    for (uint32_t i = 0; i < NODES; i++)
        led |= i != node->number && node->world->nodes[i].up && node->world->nodes[i].leads;
    return led;
}

static void give_way(void *ctx)
{
    ((struct node *)ctx)->gave_way++;
}

static void count_entry(void *ctx, const struct wal_entry *entry)
{
    (void)entry;
    ((struct node *)ctx)->seen++;
}

void node_start(struct node *node)
{
    struct world *world = node->world;
    struct wal_config config = config_of(node);
    struct wal_callbacks callbacks = {.ctx = node, .on_entry = count_entry};
    node->env.disk = &node->mem->disk;
    node->env.log = &node->mem->log;
    node->fatal = node->leads = false;
    node->boot++;
    node->wal = wal_new(&config, &node->env, &callbacks);
    ck_assert_int_eq(wal_open(node->wal, &node->recovery), ERR_OK);
    struct repairer_config repairer_config = {.wal = config,
                                              .boot = node->boot,
                                              .hash_seed = 5,
                                              .timeout_ns = TIMEOUT_NS,
                                              .pause_ns = PAUSE_NS};
    struct repairer_callbacks repairer_callbacks = {
        .ctx = node,
        .may_replace = may_replace,
        .on_replaced = on_replaced,
        .led_by_another = led_by_another,
        .give_way = give_way,
    };
    node->repairer = repairer_new(&repairer_config, &node->env, node->wal, &repairer_callbacks);
    repairer_open(node->repairer, &node->recovery);
    struct format_salt salt = {.cluster_id = config.cluster_id, .bucket = config.bucket};
    node->lender = lender_new(&salt, &node->env, node->wal,
                              &(struct lender_callbacks){.ctx = node, .leads = leads});
    node->up = true;
    (void)world;
}

void node_kill(struct node *node)
{
    repairer_free(node->repairer);
    lender_free(node->lender);
    wal_free(node->wal);
    node->repairer = NULL;
    node->lender = NULL;
    node->wal = NULL;
    node->up = false;
    mem_disk_kill(node->mem);
    ck_assert_int_eq(node->mem->files_open, 0);
    for (uint32_t i = 0; i < NODES; i++) {
        node->out[i].len = 0;
        node->world->nodes[i].out[node->number].len = 0;
    }
}

struct world *world_new(uint64_t seed, uint64_t segment_bytes, size_t data_max)
{
    struct world *world = calloc(1, sizeof *world);
    ck_assert_ptr_nonnull(world);
    world->state = seed;
    world->made = run_new(segment_bytes, data_max, NULL);
    world->made->config.compression = true;
    world->made->config.replica_count = NODES;
    for (uint32_t i = 0; i < NODES; i++)
        world->made->config.replicas[i] = i;
    for (uint32_t i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        node->world = world;
        node->number = i;
        node->mem = mem_disk_new();
        node->ops = (struct env_ops){.now_ns = node_now,
                                     .random = node_random,
                                     .submit = node_submit,
                                     .peer = node_peer,
                                     .fatal = node_fatal,
                                     .replace_disk = node_replace_disk};
        node->env.ops = &node->ops;
        node_start(node);
    }
    world->last = world->committed = 1;
    world->chains[1] = wal_last_chain(world->nodes[0].wal);
    world_new_term(world, LEADER);
    return world;
}

void world_free(struct world *world)
{
    for (uint32_t i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        if (node->up)
            node_kill(node);
        if (node->index != NULL)
            index_free(node->index, &node->mem->disk);
        mem_disk_free(node->mem);
        for (uint32_t k = 0; k < NODES; k++)
            buf_release(&node->out[k]);
    }
    run_free(world->made);
    free(world);
}

void world_flush(struct node *node)
{
    wal_flush(node->wal);
    mem_disk_settle(node->mem);
    ck_assert(!node->fatal);
}

static void make_room(struct node *node, uint64_t bound, enum wal_room room)
{
    for (int tries = 0; wal_fits(node->wal, bound, room) != ERR_OK; tries++) {
        ck_assert_int_lt(tries, 20);
        world_flush(node);
        if (room == ROOM_WAIT)
            wal_commit(node->wal, min_u64(wal_durable_idx(node->wal), node->world->last));
    }
}

/* The record of the log's last entry. */
static struct span last_entry(struct node *node)
{
    const struct tail_entry *entry = wal_tail_entry(node->wal, wal_last_idx(node->wal));
    ck_assert_ptr_nonnull(entry);
    struct span bytes = wal_tail_bytes(node->wal, entry->at.segment, entry->at.offset, entry->len);
    ck_assert_ptr_nonnull(bytes.ptr);
    return bytes;
}

static void append_tx(struct world *world, struct node *node, uint64_t content)
{
    struct run_tx tx;
    uint32_t positions[RUN_EVENTS_MAX];
    run_tx_make(world->made, content, &tx);
    /* Versions follow one another in their streams. */
    for (uint32_t i = 0; i < tx.count; i++) {
        memcpy((uint8_t *)(uintptr_t)tx.events[i].stream.ptr, &content,
               min_u64(8, tx.events[i].stream.len));
        tx.events[i].version = 0;
        uint8_t *id = tx.events[i].event_id.bytes;
        store_u64(id, content);
        store_u64(id + 8, i);
    }
    for (uint32_t i = 1; i < tx.count; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (span_equal(tx.events[i].stream, tx.events[k].stream))
                tx.events[i].version++;
        }
    }
    make_room(node, wal_entry_bound(tx.events, tx.count), ROOM_WAIT);
    wal_append_tx(node->wal, tx.partition, &tx.partition_key, &tx.transaction_id, tx.events,
                  tx.count, positions);
    buf_release(&tx.bytes);
}

/* The leader's new entry is the model's, and goes to these others. */
static void spread(struct world *world, struct node *leader, uint32_t nodes)
{
    uint64_t idx = ++world->last;
    ck_assert_uint_lt(idx, WORLD_IDXS);
    ck_assert_uint_eq(wal_last_idx(leader->wal), idx);
    world->terms[idx] = wal_last_term(leader->wal);
    world->chains[idx] = wal_last_chain(leader->wal);
    struct buf copy = {0};
    buf_append_span(&copy, last_entry(leader));
    for (uint32_t i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        struct wal_entry entry;
        if (node == leader || (nodes >> i & 1) == 0)
            continue;
        make_room(node, copy.len, ROOM_WAIT);
        ck_assert_int_eq(wal_append_entry(node->wal, buf_span(&copy), &entry), ERR_OK);
    }
    buf_release(&copy);
}

static struct node *leader_of(struct world *world)
{
    for (uint32_t i = 0; i < NODES; i++) {
        if (world->nodes[i].leads)
            return &world->nodes[i];
    }
    ck_abort();
}

void world_append_to(struct world *world, uint32_t nodes)
{
    struct node *leader = leader_of(world);
    append_tx(world, leader, world->last + 1);
    spread(world, leader, nodes);
}

void world_append_stray(struct world *world, struct node *node, int count)
{
    for (int i = 0; i < count; i++) {
        /* A segment isn't left before its strays are cut. */
        world_flush(node);
        wal_commit(node->wal, min_u64(wal_durable_idx(node->wal), world->last));
        if (wal_fits(node->wal, 3200, ROOM_WAIT) == ERR_OK)
            append_tx(world, node, 10000 + wal_last_idx(node->wal));
    }
}

void world_new_term(struct world *world, uint32_t leader)
{
    uint64_t term = 0;
    for (uint32_t i = 0; i < NODES; i++) {
        if (world->nodes[i].up)
            term = max_u64(term, wal_term(world->nodes[i].wal) + 1);
    }
    uint32_t level = 0;
    for (uint32_t i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        node->leads = i == leader;
        if (!node->up || wal_fits(node->wal, WAL_TERM_BOUND, ROOM_MUST) == ERR_CORRUPT)
            continue;
        make_room(node, WAL_TERM_BOUND, ROOM_MUST);
        wal_append_vote(node->wal, term, i == 2 ? 0 : leader + 1);
        if (wal_last_idx(node->wal) > world->last) {
            make_room(node, WAL_CUT_BOUND, ROOM_MUST);
            wal_append_cut(node->wal, world->last + 1, term);
        }
        if (wal_last_idx(node->wal) == world->last)
            level |= 1u << i;
    }
    make_room(&world->nodes[leader], sizeof(struct entry_head), ROOM_MUST);
    wal_append_noop(world->nodes[leader].wal);
    spread(world, &world->nodes[leader], level);
}

void world_append(struct world *world, int count, bool cuts)
{
    for (int i = 0; i < count; i++) {
        if (cuts && world_pick(world, 12) == 0) {
            for (uint32_t k = 1; k < NODES; k++) {
                if (world_pick(world, 2) == 0)
                    world_append_stray(world, &world->nodes[k], 1 + (int)world_pick(world, 3));
                if (world_pick(world, 2) == 0)
                    world_flush(&world->nodes[k]);
            }
            world_new_term(world, LEADER);
        }
        world_append_to(world, 7);
        for (uint32_t k = 0; k < NODES; k++) {
            struct wal *wal = world->nodes[k].wal;
            if (world_pick(world, 4) == 0)
                world_flush(&world->nodes[k]);
            uint64_t lag = world_pick(world, 4);
            if (wal_durable_idx(wal) > lag && world_pick(world, 3) == 0)
                wal_commit(wal, max_u64(wal_commit_idx(wal), wal_durable_idx(wal) - lag));
        }
    }
}

void world_settle(struct world *world)
{
    for (uint32_t i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        if (!node->up || node->recovery.damaged)
            continue;
        world_flush(node);
        wal_commit(node->wal, wal_durable_idx(node->wal));
        wal_flush_witness(node->wal);
        mem_disk_settle(node->mem);
    }
    world->committed = world->last;
}

/* --- messages --- */

void world_tick(struct world *world, uint32_t from, uint32_t to, bool fresh)
{
    struct node *node = &world->nodes[from];
    struct msg_tick tick = {
        .boot = node->boot,
        .number = 1,
        .echo_boot = fresh ? world->nodes[to].boot : world->nodes[to].boot - 1,
        .term = wal_term(node->wal),
        .leads = node->leads,
        .commit_idx = wal_commit_idx(node->wal),
        .last_idx = wal_last_idx(node->wal),
        .durable_idx = wal_durable_idx(node->wal),
    };
    repairer_on_tick(world->nodes[to].repairer, from, &tick);
}

static void deliver(struct world *world, uint32_t from, uint32_t to)
{
    struct buf frame = world->nodes[from].out[to];
    struct node *node = &world->nodes[to];
    world->nodes[from].out[to] = (struct buf){0};
    struct span rest = buf_span(&frame);
    while (rest.len > 0) {
        struct msg msg;
        ck_assert_int_eq(msg_unpack(&rest, &msg), ERR_OK);
        if (!node->up || node->fatal || (world->drop != NULL && world->drop(world, from, to, &msg)))
            continue;
        if (msg.tag == TAG_fetch) {
            lender_on_fetch(node->lender, from, &msg.u.fetch, NULL, node->recovery.first_segment);
        } else {
            ck_assert_int_eq(msg.tag, TAG_chunk);
            world->delivered++;
            repairer_on_chunk(node->repairer, from, &msg.u.chunk);
        }
    }
    buf_release(&frame);
}

static bool anything(struct world *world)
{
    bool some = false;
    for (uint32_t i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        for (uint32_t k = 0; k < NODES; k++)
            some |= node->out[k].len > 0;
        some |= node->up && node->mem->jobs_count > 0;
    }
    return some;
}

void world_run(struct world *world, uint64_t ns)
{
    uint64_t until = world->now_ns + ns;
    while (world->now_ns < until) {
        for (uint32_t i = 0; i < NODES; i++) {
            struct node *node = &world->nodes[i];
            if (!node->up || node->fatal)
                continue;
            repairer_turn(node->repairer, world->now_ns);
            mem_disk_run_job(node->mem, 0);
        }
        for (uint32_t i = 0; i < NODES; i++) {
            for (uint32_t k = 0; k < NODES; k++)
                deliver(world, i, k);
        }
        if (!anything(world))
            world->now_ns += TICK_NS / 5;
        else
            world->now_ns++;
    }
}

/* --- checks --- */

struct scan_ctx {
    struct node *node;
    struct index *index;
    uint64_t events;
};

static void scan_entry(void *ctx, const struct wal_entry *entry)
{
    struct scan_ctx *scan = ctx;
    const struct world *world = scan->node->world;
    if (scan->index == NULL)
        return;
    struct format_salt salt = {.cluster_id = world->made->config.cluster_id,
                               .bucket = world->made->config.bucket,
                               .segment = entry->segment};
    uint64_t offset = sizeof(struct entry_head);
    struct buf scratch = {0};
    struct event_view event;
    uint32_t position, found;
    while (wal_entry_event(entry, &salt, &offset, &scratch, &event, &position) == ERR_OK) {
        ck_assert_int_eq(index_find_event(scan->index, &event.event_id, 0, &found), ERR_OK);
        ck_assert_uint_eq(found, position);
        scan->events++;
    }
    buf_release(&scratch);
}

static enum err scan_segment(struct node *node, uint64_t segment, struct scan_ctx *ctx,
                             struct wal_scan_result *result)
{
    const struct wal_config *config = &node->world->made->config;
    struct wal_scan scan = {.ctx = ctx, .on_entry = scan_entry};
    struct format_salt salt = {.cluster_id = config->cluster_id, .bucket = config->bucket};
    return wal_scan_segment(&node->mem->disk, segment, &salt, &scan, result);
}

uint64_t scan_problems(struct node *node, uint64_t segment)
{
    struct scan_ctx ctx = {.node = node};
    struct wal_scan_result result = {0};
    return scan_segment(node, segment, &ctx, &result) == ERR_OK ? result.problems : 1;
}

void check_log(struct node *node, uint64_t last, uint64_t except)
{
    uint64_t idx = 0, chain = 0, events = 0, term = 0;
    for (uint64_t segment = 0; segment <= wal_durable(node->wal).segment; segment++) {
        struct scan_ctx ctx = {.node = node};
        struct wal_scan_result result = {0};
        enum err err = scan_segment(node, segment, &ctx, &result);
        if (segment == except) {
            except++; /* neither is what comes before the next one known */
            idx = UINT64_MAX;
            continue;
        }
        ck_assert_int_eq(err, ERR_OK);
        ck_assert_uint_eq(result.problems, 0);
        ck_assert(idx == UINT64_MAX || result.checkpoint.last_idx == idx);
        ck_assert(idx == UINT64_MAX || result.checkpoint.last_chain == chain);
        ck_assert(idx == UINT64_MAX || result.checkpoint.events == events);
        ck_assert_uint_eq(result.header.disk_id, wal_disk_id(node->wal));
        ck_assert_uint_eq(result.entries, result.last_idx - result.checkpoint.last_idx);
        idx = result.last_idx;
        chain = result.last_chain;
        term = result.last_term;
        events = result.checkpoint.events + result.events;
        ck_assert_uint_eq(chain, node->world->chains[idx]);
        ck_assert_uint_eq(term, node->world->terms[idx]);
    }
    ck_assert(idx == UINT64_MAX || idx == last);
}

void check_index(struct node *node, uint64_t segment, struct index *index)
{
    struct scan_ctx ctx = {.node = node, .index = index};
    struct wal_scan_result result = {0};
    ck_assert_ptr_nonnull(index);
    ck_assert_int_eq(scan_segment(node, segment, &ctx, &result), ERR_OK);
    ck_assert_uint_eq(index_event_count(index), result.events);
    ck_assert_uint_eq(ctx.events, result.events);
}

struct buf *data_of(struct node *node, uint64_t segment)
{
    char path[48];
    wal_data_path(segment, false, path);
    return mem_disk_bytes(node->mem, path);
}

void damage(struct node *node, uint64_t segment)
{
    struct buf *file = data_of(node, segment);
    struct batch_at batches[200];
    size_t count = batches_of(node, segment, batches, 200);
    file->ptr[batches[count / 2].offset + batches[count / 2].bytes / 2] ^= 1;
    char path[48];
    wal_data_path(segment, false, path);
    mem_disk_resize(node->mem, path, file->len); /* on the disk, too */
}

size_t batches_of(struct node *node, uint64_t segment, struct batch_at *list, size_t max)
{
    const struct buf *file = data_of(node, segment);
    uint64_t at = load_u64(file->ptr + offsetof(struct segment_header, data_start));
    size_t count = 0;
    while (at + sizeof(struct batch_mark) <= file->len &&
           load_u64(file->ptr + at) == BATCH_HEAD_MAGIC) {
        struct batch_mark head;
        memcpy(&head, file->ptr + at, sizeof head);
        ck_assert_uint_lt(count, max);
        list[count++] = (struct batch_at){.offset = at,
                                          .bytes = head.bytes,
                                          .first_idx = head.first_idx,
                                          .last_idx = head.last_idx};
        at += head.bytes;
    }
    return count;
}
