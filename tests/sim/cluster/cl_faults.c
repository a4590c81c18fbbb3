/* Faults that come and go in a storm: each class of a seed strikes now and then, with a generator
 * of its own. */
#include <stddef.h>

#include "tests/sim/cluster/cl_internal.h"

struct fault_row {
    enum cl_fault fault;
    size_t mean; /* where the swarm says how far apart (uint64_t, ns) */
    void (*strike)(struct cluster *cluster, struct prng *prng);
};

static void on_fault_time(void *ctx, uint64_t arg);
static void plan(struct cluster *cluster, uint64_t row);
static struct cl_node *pick_victim(struct cluster *cluster, struct prng *prng);
static void strike_cut(struct cluster *cluster, struct prng *prng);
static void on_cut_end(void *ctx, uint64_t number);
static void strike_reset(struct cluster *cluster, struct prng *prng);
static void strike_link(struct cluster *cluster, struct prng *prng);
static void strike_netd(struct cluster *cluster, struct prng *prng);
static void strike_kill(struct cluster *cluster, struct prng *prng);
static void strike_power(struct cluster *cluster, struct prng *prng);
static void strike_power_all(struct cluster *cluster, struct prng *prng);
static void strike_pause(struct cluster *cluster, struct prng *prng);
static void strike_stop(struct cluster *cluster, struct prng *prng);
static void strike_transfer(struct cluster *cluster, struct prng *prng);
static void strike_full(struct cluster *cluster, struct prng *prng);
static void strike_rot(struct cluster *cluster, struct prng *prng);
static void strike_wipe(struct cluster *cluster, struct prng *prng);
static void strike_jump(struct cluster *cluster, struct prng *prng);

static const struct fault_row rows[] = {
    {CL_CUT, offsetof(struct cl_swarm, cut_mean_ns), strike_cut},
    {CL_RESET, offsetof(struct cl_swarm, reset_mean_ns), strike_reset},
    {CL_LINK, offsetof(struct cl_swarm, link_loss_mean_ns), strike_link},
    {CL_NETD, offsetof(struct cl_swarm, netd_mean_ns), strike_netd},
    {CL_KILL, offsetof(struct cl_swarm, kill_mean_ns), strike_kill},
    {CL_POWER, offsetof(struct cl_swarm, power_mean_ns), strike_power},
    {CL_POWER_ALL, offsetof(struct cl_swarm, power_all_mean_ns), strike_power_all},
    {CL_PAUSE, offsetof(struct cl_swarm, pause_mean_ns), strike_pause},
    {CL_STOP, offsetof(struct cl_swarm, stop_mean_ns), strike_stop},
    {CL_TRANSFER, offsetof(struct cl_swarm, transfer_mean_ns), strike_transfer},
    {CL_FULL, offsetof(struct cl_swarm, full_mean_ns), strike_full},
    {CL_ROT, offsetof(struct cl_swarm, rot_mean_ns), strike_rot},
    {CL_WIPE, offsetof(struct cl_swarm, wipe_mean_ns), strike_wipe},
    {CL_JUMP, offsetof(struct cl_swarm, jump_mean_ns), strike_jump},
};
#define ROWS (sizeof rows / sizeof rows[0])

/* --- storms --- */

void cl_faults_begin_storm(struct cluster *cluster)
{
    cluster->storm++;
    for (uint64_t row = 0; row < ROWS; row++) {
        if (cl_has(cluster, rows[row].fault))
            plan(cluster, row);
    }
    const struct cl_swarm *swarm = &cluster->swarm;
    for (uint32_t i = 0; i < swarm->nodes; i++) {
        struct node_faults *faults = &cluster->nodes[i].node.faults;
        bool slow = cl_has(cluster, CL_SLOW) && prng_chance(cl_prng(cluster, CL_SLOW), 400000);
        *faults = slow ? swarm->disk_slow : swarm->disk;
        bool reads = cl_has(cluster, CL_READ_ERROR), writes = cl_has(cluster, CL_WRITE_ERROR);
        faults->read_error = reads ? swarm->disk.read_error : 0;
        faults->write_error = writes ? swarm->disk.write_error : 0;
        faults->sync_error = writes ? swarm->disk.sync_error : 0;
        faults->other_error = writes ? swarm->disk.other_error : 0;
    }
}

void cl_faults_end_storm(struct cluster *cluster)
{
    cl_net_heal(cluster);
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        struct node *node = &cluster->nodes[i].node;
        cluster->nodes[i].netd_down_until_ns = 0;
        node->faults = cluster->swarm.disk;
        node->faults.read_error = node->faults.write_error = node->faults.sync_error =
            node->faults.other_error = 0;
        sim_disk_set_capacity(node->disk, UINT64_MAX);
    }
}

static void plan(struct cluster *cluster, uint64_t row)
{
    uint64_t mean = *(const uint64_t *)((const char *)&cluster->swarm + rows[row].mean);
    ASSERT(mean > 0);
    struct prng *prng = cl_prng(cluster, rows[row].fault);
    sched_after(&cluster->sched, prng_range(prng, 1, 2 * mean), on_fault_time, cluster,
                cluster->storm << 8 | row);
}

static void on_fault_time(void *ctx, uint64_t arg)
{
    struct cluster *cluster = ctx;
    if (cluster->over || cluster->phase != CL_STORM || cluster->storm != arg >> 8)
        return;
    const struct fault_row *row = &rows[arg & 0xff];
    row->strike(cluster, cl_prng(cluster, row->fault));
    plan(cluster, arg & 0xff);
}

void cl_faults_plan_recovery(struct cl_node *node)
{
    struct cluster *cluster = node->cluster;
    bool power = cl_has(cluster, CL_POWER);
    if (cluster->phase != CL_STORM || !(power || cl_has(cluster, CL_KILL)))
        return;
    struct prng *prng = cl_prng(cluster, power ? CL_POWER : CL_KILL);
    if (!prng_chance(prng, cluster->swarm.recovery_crash))
        return;
    node->node.crash_in_ops = prng_range(prng, 1, 30);
    node->node.crash_end = power && prng_chance(prng, 500000) ? NODE_POWER_CUT : NODE_KILLED;
}

/* Any replica, and the leader rather often. */
static struct cl_node *pick_victim(struct cluster *cluster, struct prng *prng)
{
    const struct bucket_config *config = &cluster->swarm.config;
    uint32_t index = config->replicas[prng_below(prng, config->replica_count)];
    if (prng_chance(prng, 400000) && cl_leader(cluster) != UINT32_MAX)
        index = cl_leader(cluster);
    return &cluster->nodes[index];
}

/* --- network --- */

static void strike_cut(struct cluster *cluster, struct prng *prng)
{
    bool cut[CL_NODES_MAX][CL_NODES_MAX] = {{false}};
    uint32_t nodes = cluster->swarm.nodes;
    uint32_t one = pick_victim(cluster, prng)->index;
    uint32_t other = (uint32_t)prng_below(prng, nodes);
    uint64_t side = prng_next(prng), chance = prng_range(prng, 100000, 700000);
    uint64_t kind = prng_below(prng, 8);
    for (uint32_t a = 0; a < nodes; a++) {
        for (uint32_t b = 0; b < nodes; b++) {
            switch (kind) {
            case 0: /* one direction of one pair */
                cut[a][b] = a == one && b == other;
                break;
            case 1: /* one pair */
                cut[a][b] = (a == one && b == other) || (a == other && b == one);
                break;
            case 2: /* one alone */
                cut[a][b] = a == one || b == one;
                break;
            case 3: /* one speaks, and hears nobody */
                cut[a][b] = b == one;
                break;
            case 4: /* one hears, and nobody hears it */
                cut[a][b] = a == one;
                break;
            case 5: /* two sides */
                cut[a][b] = (side >> a & 1) != (side >> b & 1);
                break;
            case 6: /* a ring: everybody hears the neighbours only */
                cut[a][b] = (a + 1) % nodes != b && (b + 1) % nodes != a;
                break;
            default:
                cut[a][b] = prng_chance(prng, chance);
            }
        }
    }
    cl_net_cut(cluster, cut, prng_chance(prng, cluster->swarm.hold));
    uint64_t longest = 3 * cluster->swarm.config.election_timeout_ns + SECOND;
    uint64_t end = prng_range(prng, 10 * MS, prng_chance(prng, 300000) ? 200 * MS : longest);
    sched_after(&cluster->sched, end, on_cut_end, cluster, ++cluster->cut_number);
}

static void on_cut_end(void *ctx, uint64_t number)
{
    struct cluster *cluster = ctx;
    if (!cluster->over && number == cluster->cut_number)
        cl_net_heal(cluster);
}

static void strike_reset(struct cluster *cluster, struct prng *prng)
{
    uint32_t a = pick_victim(cluster, prng)->index;
    uint32_t b = (uint32_t)prng_below(prng, cluster->swarm.nodes);
    if (a != b)
        cl_net_reset(cluster, a, b);
}

static void strike_link(struct cluster *cluster, struct prng *prng)
{
    cl_links_break(cluster, (uint32_t)prng_below(prng, cluster->swarm.clients),
                   pick_victim(cluster, prng)->index);
}

static void strike_netd(struct cluster *cluster, struct prng *prng)
{
    struct cl_node *victim = pick_victim(cluster, prng);
    uint64_t ns = prng_range(prng, MS, cluster->swarm.netd_ns_max);
    trace_line(&cluster->trace, "n%u: no netd for %.1f ms", victim->index, (double)ns / 1e6);
    victim->netd_down_until_ns = cluster->sched.now_ns + ns;
    for (uint32_t other = 0; other < cluster->swarm.nodes; other++) {
        if (other != victim->index)
            cl_net_reset(cluster, victim->index, other);
    }
    for (uint32_t client = 0; client < cluster->swarm.clients; client++) {
        for (uint32_t node = 0; node < cluster->swarm.nodes; node++) {
            if (node == victim->index || client % cluster->swarm.nodes == victim->index)
                cl_links_break(cluster, client, node);
        }
    }
}

/* --- processes --- */

/* At once, or at one of the next disk operations or turns. */
static void doom(struct cluster *cluster, struct prng *prng, struct cl_node *victim,
                 enum node_end end)
{
    static const uint64_t keeps[] = {0, 100000, 500000, 900000, 1000000};
    struct node *node = &victim->node;
    if (node->bucket == NULL || cluster->crashes >= cluster->swarm.crashes_max)
        return;
    cluster->crashes++;
    node->power_keep = keeps[prng_below(prng, 5)];
    node->crash_end = end;
    switch (prng_below(prng, 3)) {
    case 0:
        node->crash_in_ops = prng_range(prng, 1, 2 * cluster->swarm.crash_ops_mean);
        return;
    case 1:
        node->crash_in_turns = prng_range(prng, 1, 20);
        return;
    default:
        cl_node_end_now(victim, end);
    }
}

static void strike_kill(struct cluster *cluster, struct prng *prng)
{
    doom(cluster, prng, pick_victim(cluster, prng), NODE_KILLED);
}

static void strike_power(struct cluster *cluster, struct prng *prng)
{
    doom(cluster, prng, pick_victim(cluster, prng), NODE_POWER_CUT);
}

/* Several at the same instant: all of them, or most. */
static void strike_power_all(struct cluster *cluster, struct prng *prng)
{
    static const uint64_t keeps[] = {0, 0, 100000, 500000, 1000000};
    const struct bucket_config *config = &cluster->swarm.config;
    if (cluster->crashes >= cluster->swarm.crashes_max)
        return;
    uint64_t chance = prng_chance(prng, 500000) ? 1000000 : 600000;
    for (uint32_t i = 0; i < config->replica_count; i++) {
        struct cl_node *node = &cluster->nodes[config->replicas[i]];
        if (!prng_chance(prng, chance))
            continue;
        cluster->crashes++;
        node->node.power_keep = keeps[prng_below(prng, 5)];
        cl_node_end_now(node, NODE_POWER_CUT);
    }
}

static void strike_pause(struct cluster *cluster, struct prng *prng)
{
    struct cl_node *victim = pick_victim(cluster, prng);
    if (victim->node.bucket == NULL)
        return;
    cluster->totals.pauses++;
    node_pause(&victim->node,
               cluster->sched.now_ns + prng_range(prng, MS, cluster->swarm.pause_ns_max));
    /* Its netd may be gone, and the others take it for dead; or it is a rumour. */
    if (prng_chance(prng, 300000))
        cl_net_notice(cluster, victim->index, UINT64_MAX);
    if (prng_chance(prng, 100000))
        cl_net_notice(cluster, pick_victim(cluster, prng)->index, UINT64_MAX);
}

static void strike_stop(struct cluster *cluster, struct prng *prng)
{
    if (cluster->crashes++ < cluster->swarm.crashes_max)
        cl_node_stop(pick_victim(cluster, prng));
}

static void strike_transfer(struct cluster *cluster, struct prng *prng)
{
    uint32_t leader = cl_leader(cluster);
    const struct bucket_config *config = &cluster->swarm.config;
    uint32_t to = config->replicas[prng_below(prng, config->replica_count)];
    if (prng_chance(prng, 300000))
        to = UINT32_MAX;
    if (leader == UINT32_MAX || cluster->nodes[leader].state != CL_UP || to == leader)
        return;
    trace_line(&cluster->trace, "n%u is asked to hand over to n%u", leader, to);
    cluster->totals.transfers++;
    struct buf none = {0};
    cl_node_take(&cluster->nodes[leader], INPUT_TRANSFER, to, 0, &none);
}

/* --- disks and clocks --- */

static void strike_full(struct cluster *cluster, struct prng *prng)
{
    struct cl_node *victim = pick_victim(cluster, prng);
    bool scarce = prng_chance(prng, 600000);
    uint64_t room = sim_disk_used(victim->node.disk) + prng_below(prng, 20) * DISK_BLOCK_BYTES;
    sim_disk_set_capacity(victim->node.disk, scarce ? room : UINT64_MAX);
    trace_line(&cluster->trace, "n%u: room on the disk: %s", victim->index,
               scarce ? "scarce" : "enough");
}

static void strike_rot(struct cluster *cluster, struct prng *prng)
{
    cl_damage_sealed(pick_victim(cluster, prng));
}

static void strike_wipe(struct cluster *cluster, struct prng *prng)
{
    struct cl_node *victim = pick_victim(cluster, prng);
    if (!cl_damage_may_wipe(victim))
        return;
    cl_node_end_now(victim, NODE_POWER_CUT);
    cl_damage_wipe(victim);
}

static void strike_jump(struct cluster *cluster, struct prng *prng)
{
    struct cl_node *victim = pick_victim(cluster, prng);
    uint64_t by = prng_range(prng, MS, cluster->swarm.jump_ns_max);
    trace_line(&cluster->trace, "n%u: clock jumps by %.1f ms", victim->index, (double)by / 1e6);
    cluster->totals.jumps++;
    node_set_clock(&victim->node, node_now(&victim->node) + by, victim->node.clock.drift_ppm);
}
