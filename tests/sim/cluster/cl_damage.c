/* Harm to disks, within what the protocol promises to survive: at any time only a minority of the
 * replicas is damaged, and a disk is emptied only where all others are whole. Index files are no
 * part of it: any replica may lose them. */
#include <stdio.h>

#include "bucketd/core/format.h"
#include "tests/sim/cluster/cl_internal.h"

#define FILES_MAX 1500u

struct found_files {
    const char *suffix;
    char (*paths)[48];
    uint64_t *sizes;
    uint32_t count;
};

static uint32_t harmed(const struct cluster *cluster);
static bool may_rot(const struct cl_node *node);
static void find_files(struct cl_node *node, struct found_files *found, const char *suffix,
                       char paths[FILES_MAX][48], uint64_t sizes[FILES_MAX]);
static void damage_index(struct cl_node *node, struct prng *prng);
static void rot_at_rest(struct cl_node *node, struct prng *prng);
static void rot(struct cl_node *node, struct prng *prng, const char *path, uint64_t end);
static uint64_t last_batch(struct span file);
static bool is_healed(struct cl_node *node, const struct rot_spot *spot);
static void review_wiped(struct cl_node *node);

/* --- the budget --- */

static bool is_harmed(const struct cl_node *node)
{
    return node->wiped || node->rot_count > 0;
}

static uint32_t harmed(const struct cluster *cluster)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++)
        count += is_harmed(&cluster->nodes[i]);
    return count;
}

/* Before the first leader's configuration is committed a lost disk can't be told from a new one. */
static bool has_begun(const struct cluster *cluster)
{
    return cluster->max_commit_idx > 1;
}

static bool may_rot(const struct cl_node *node)
{
    uint32_t replicas = node->cluster->swarm.config.replica_count;
    uint32_t minority = replicas - (replicas / 2 + 1);
    if (node->rot_count == ROT_SPOTS_MAX || !node->replica || !has_begun(node->cluster))
        return false;
    return is_harmed(node) || harmed(node->cluster) < minority;
}

bool cl_damage_may_wipe(struct cl_node *node)
{
    cl_damage_review(node->cluster);
    uint32_t others = harmed(node->cluster) - is_harmed(node);
    return node->replica && node->cluster->swarm.config.replica_count > 2 && others == 0 &&
           has_begun(node->cluster);
}

bool cl_damage_excuses(const struct cl_node *node)
{
    return node->rot_count > 0;
}

void cl_damage_review(struct cluster *cluster)
{
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        struct bucket *bucket = cluster_bucket(cluster, i);
        if (bucket == NULL)
            continue;
        struct replica_state state;
        bucket_get_replica_state(bucket, &state);
        cluster->max_commit_idx = max_u64(cluster->max_commit_idx, state.commit_idx);
    }
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        struct cl_node *node = &cluster->nodes[i];
        uint32_t left = 0;
        for (uint32_t k = 0; k < node->rot_count; k++) {
            if (!is_healed(node, &node->rot[k]))
                node->rot[left++] = node->rot[k];
        }
        if (left < node->rot_count)
            trace_line(&cluster->trace, "n%u: %u damaged places left", i, left);
        node->rot_count = left;
        if (node->wiped)
            review_wiped(node);
    }
}

/* The file is gone, or others bytes stand there. */
static bool is_healed(struct cl_node *node, const struct rot_spot *spot)
{
    struct span file = sim_disk_peek(node->node.disk, spot->path);
    uint32_t len = spot->len < sizeof spot->bytes ? spot->len : (uint32_t)sizeof spot->bytes;
    return file.ptr == NULL || file.len < spot->offset + len ||
           memcmp(file.ptr + spot->offset, spot->bytes, len) != 0;
}

/* It is whole again when it is a voter by a committed configuration that it knows to be, with all
 * that had been committed until it was seen to be one. */
static void review_wiped(struct cl_node *node)
{
    struct cluster *cluster = node->cluster;
    struct bucket *bucket = node->node.bucket;
    if (bucket == NULL)
        return;
    struct replica_state state;
    bucket_get_replica_state(bucket, &state);
    if (!state.voter || state.damaged || state.commit_idx < 2) {
        node->voter_idx = 0;
    } else if (node->voter_idx == 0 && state.durable_idx >= cluster->max_commit_idx) {
        node->voter_idx = state.last_idx;
    } else if (node->voter_idx > 0 && state.commit_idx >= node->voter_idx) {
        trace_line(&cluster->trace, "n%u: the new disk is whole", node->index);
        node->wiped = false;
        node->voter_idx = 0;
    }
}

/* --- harm --- */

void cl_damage_at_rest(struct cl_node *node)
{
    struct cluster *cluster = node->cluster;
    if (cluster->phase != CL_STORM)
        return;
    if (cl_has(cluster, CL_INDEX) && prng_chance(cl_prng(cluster, CL_INDEX), 300000))
        damage_index(node, cl_prng(cluster, CL_INDEX));
    if (!cl_has(cluster, CL_ROT) || !prng_chance(cl_prng(cluster, CL_ROT), 300000))
        return;
    cl_damage_review(cluster);
    if (may_rot(node))
        rot_at_rest(node, cl_prng(cluster, CL_ROT));
}

void cl_damage_wipe(struct cl_node *node)
{
    struct cluster *cluster = node->cluster;
    trace_line(&cluster->trace, "n%u: an empty disk takes the place of the old one", node->index);
    cluster->totals.wipes++;
    node_replace_disk(&node->node, sim_disk_new(NULL, &(struct disk_hooks){0}));
    sim_disk_set_name(node->node.disk, node->node.name);
    node->rot_count = 0;
    node->wiped = true;
    /* Numbers of processes come from the clock where the disk knows of none. */
    if (node->boots % 2 == 0)
        node->boots_behind += CL_BOOT_BEHIND;
    node->voter_idx = 0;
    oracle_on_damage(cluster->oracle, node->index, DAMAGE_WIPED);
}

static void note_file(void *ctx, const char *path, uint64_t size)
{
    struct found_files *found = ctx;
    size_t len = strlen(path), suffix = strlen(found->suffix);
    /* Nobody relies on what a repair is about to write. */
    if (len < suffix || len >= sizeof found->paths[0] || strncmp(path, "segments/", 9) != 0 ||
        strcmp(path + len - suffix, found->suffix) != 0 || found->count == FILES_MAX || size == 0)
        return;
    memcpy(found->paths[found->count], path, len + 1);
    found->sizes[found->count++] = size;
}

static void find_files(struct cl_node *node, struct found_files *found, const char *suffix,
                       char paths[FILES_MAX][48], uint64_t sizes[FILES_MAX])
{
    *found = (struct found_files){.suffix = suffix, .paths = paths, .sizes = sizes};
    sim_disk_each_file(node->node.disk, note_file, found);
}

static void damage_index(struct cl_node *node, struct prng *prng)
{
    char paths[FILES_MAX][48];
    uint64_t sizes[FILES_MAX];
    struct found_files found;
    struct sim_disk *disk = node->node.disk;
    find_files(node, &found, "idx", paths, sizes);
    if (found.count == 0)
        return;
    for (uint64_t times = prng_range(prng, 1, 3); times > 0; times--) {
        uint64_t at = prng_below(prng, found.count);
        uint64_t size = sim_disk_peek(disk, paths[at]).len;
        if (size == 0)
            continue;
        uint64_t offset = prng_below(prng, size), way = prng_below(prng, 3);
        trace_line(&node->cluster->trace, "n%u: %s is %s at %lu", node->index, paths[at],
                   way == 0   ? "lost"
                   : way == 1 ? "cut"
                              : "damaged",
                   offset);
        if (way == 0)
            sim_disk_remove(disk, paths[at]);
        else if (way == 1)
            sim_disk_cut_file(disk, paths[at], offset);
        else
            sim_disk_flip(disk, paths[at], offset, (uint8_t)(1u << prng_below(prng, 8)));
    }
    oracle_on_damage(node->cluster->oracle, node->index, DAMAGE_INDEX);
}

/* Anywhere in data that a later, durable batch proves to have been durable. Rot in the very last
 * batch can't be told from a torn one, so it isn't tried. */
static void rot_at_rest(struct cl_node *node, struct prng *prng)
{
    char paths[FILES_MAX][48];
    uint64_t sizes[FILES_MAX];
    struct found_files found;
    struct sim_disk *disk = node->node.disk;
    find_files(node, &found, "data.evts", paths, sizes);
    while (found.count > 0 && last_batch(sim_disk_peek_durable(disk, paths[found.count - 1])) == 0)
        found.count--;
    if (found.count == 0)
        return;
    uint64_t at = prng_chance(prng, 600000) ? found.count - 1 : prng_below(prng, found.count);
    bool newest = at == found.count - 1;
    struct span durable = sim_disk_peek_durable(disk, paths[at]);
    rot(node, prng, paths[at], newest ? last_batch(durable) : min_u64(sizes[at], durable.len));
}

void cl_damage_sealed(struct cl_node *node)
{
    char paths[FILES_MAX][48];
    uint64_t sizes[FILES_MAX];
    struct found_files found;
    cl_damage_review(node->cluster);
    find_files(node, &found, "data.evts", paths, sizes);
    if (!may_rot(node) || found.count < 2)
        return;
    struct prng *prng = cl_prng(node->cluster, CL_ROT);
    uint64_t at = prng_below(prng, found.count - 1);
    rot(node, prng, paths[at], sizes[at]);
}

static void rot(struct cl_node *node, struct prng *prng, const char *path, uint64_t end)
{
    struct cluster *cluster = node->cluster;
    struct sim_disk *disk = node->node.disk;
    if (end == 0)
        return; /* nothing of it is durable */
    struct rot_spot spot = {.offset = prng_below(prng, end)};
    snprintf(spot.path, sizeof spot.path, "%s", path);
    uint64_t len = prng_chance(prng, 500000) ? 1 : prng_range(prng, 1, 600);
    struct span file = sim_disk_peek(disk, path);
    uint64_t source = UINT64_MAX; /* none: noise */
    if (prng_chance(prng, 300000)) {
        /* A piece that was never written, or one that was meant for another place. */
        spot.offset -= spot.offset % DISK_PIECE_BYTES;
        source = prng_below(prng, file.len) / DISK_PIECE_BYTES * DISK_PIECE_BYTES;
        len = DISK_PIECE_BYTES;
    }
    spot.len = (uint32_t)min_u64(len, end - spot.offset);
    bool zeros = prng_chance(prng, 500000);
    uint32_t same = 0; /* first bytes that happen to be as before */
    for (uint64_t i = 0; i < spot.len; i++) {
        uint8_t mask = (uint8_t)(1 + prng_below(prng, 255));
        uint64_t from = source + i;
        if (source != UINT64_MAX)
            mask = file.ptr[spot.offset + i] ^ (zeros || from >= file.len ? 0 : file.ptr[from]);
        same += mask == 0 && same == i;
        sim_disk_flip(disk, path, spot.offset + i, mask);
    }
    spot.offset += same;
    spot.len -= same;
    if (spot.len == 0)
        return;
    file = sim_disk_peek(disk, path);
    memcpy(spot.bytes, file.ptr + spot.offset, min_u64(spot.len, sizeof spot.bytes));
    trace_line(&cluster->trace, "n%u: rot in %s at %lu, %u bytes of %s", node->index, path,
               spot.offset, spot.len,
               source == UINT64_MAX ? "noise"
               : zeros              ? "zeros"
                                    : "another place");
    node->rot[node->rot_count++] = spot;
    cluster->totals.rots++;
    oracle_on_damage(cluster->oracle, node->index, DAMAGE_ROT);
}

/* Where the last whole batch of a data file begins; 0: it has none. One that was being written when
 * the end came may be torn: then it's the one before. */
static uint64_t last_batch(struct span file)
{
    uint64_t found = 0;
    const uint64_t mark = sizeof(struct batch_mark);
    for (uint64_t at = 0; at + mark <= file.len; at += 8) {
        struct batch_mark head;
        memcpy(&head, file.ptr + at, sizeof head);
        if (head.magic == BATCH_HEAD_MAGIC && head.offset == at && head.bytes >= 2 * mark &&
            head.bytes <= file.len - at &&
            load_u64(file.ptr + at + head.bytes - mark) == BATCH_TAIL_MAGIC)
            found = at;
    }
    return found;
}
