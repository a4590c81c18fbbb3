/* A simulated cluster: one seed, one thread, virtual time. N nodes run the real core of one bucket,
 * each on a simulated disk and with a clock of its own; a network between them; clients, each a
 * simulated netd with links to the nodes; faults; and an oracle that looks at everything.
 *
 * Who calls whom: the world (cl_*.c) moves messages, starts, ends and breaks things. It calls
 * clients (cl_client.h) when something reaches them and the oracle (oracle.h) when something
 * happened. Clients call cluster_send; the oracle calls trace_fail. */
#pragma once

#include "tests/sim/cluster/cl_client.h"
#include "tests/sim/cluster/oracle.h"
#include "tests/sim/node.h"

#define CL_NODES_MAX   7u
#define CL_CLIENTS_MAX 8u
/* Numbers of processes; a lost disk may take some back. */
#define CL_BOOT_FIRST  (UINT64_C(1) << 40)
#define CL_BOOT_BEHIND (UINT64_C(1) << 20)

/* Every fault belongs to a class; a seed draws which classes it has, and shrinking switches them
 * off one by one (--without name,name). Each class draws from a generator of its own, so that what
 * the others do stays as near to the same as it can. */
enum cl_fault {
    CL_DROP,      /* single messages between replicas are lost */
    CL_DELAY,     /* some take long */
    CL_DUPLICATE, /* some arrive twice */
    CL_REORDER,   /* some overtake others */
    CL_CUT,       /* pairs of nodes don't hear each other, in one direction or both */
    CL_RESET,     /* what is under way between two nodes is lost at once */
    CL_STALE,     /* messages from or to an earlier process of a node arrive */
    CL_NOTICE,    /* peers are told of a process's end (switched off: never) */
    CL_LINK,      /* clients' links break */
    CL_NETD,      /* a node's netd ends: nothing comes or leaves until its next one is there */
    CL_KILL,      /* process ends at a disk operation, a turn, a time */
    CL_POWER,     /* a node's power goes */
    CL_POWER_ALL, /* several nodes' or all nodes' at once */
    CL_PAUSE,     /* a process stands still */
    CL_STOP,      /* planned stops, with a transfer before */
    CL_TRANSFER,  /* leadership is asked to move */
    CL_READ_ERROR,
    CL_WRITE_ERROR, /* writes, syncs, everything that changes the disk */
    CL_FULL,
    CL_SLOW,
    CL_INDEX, /* index files are lost or damaged */
    CL_ROT,
    CL_WIPE,  /* a node comes back with an empty disk */
    CL_CLOCK, /* skew and drift */
    CL_JUMP,  /* clocks jump forward */
    CL_FAULT_COUNT
};
extern const char *const cl_fault_names[CL_FAULT_COUNT];

/* What a seed draws. Chances are in a million. */
struct cl_swarm {
    uint32_t nodes; /* N; the replicas are replicas[0..replica_count) of config */
    uint32_t clients;
    uint64_t ops;    /* client requests in the whole run (appends and reads); clients
                        send no more of their own accord once so many were sent */
    uint64_t storms; /* fault phases */
    uint64_t storm_ns_max, calm_ns_max;
    uint64_t turn_ns_max; /* until a process takes up what has arrived; 0: at once */
    bool faults[CL_FAULT_COUNT];
    /* Network. */
    uint64_t delay_ns_min, delay_ns_max, long_delay_ns_max;
    uint64_t drop, long_delay, duplicate, reorder; /* of a message, in a storm */
    uint64_t split; /* of a frame, to be taken apart into its messages */
    uint64_t cut_mean_ns, reset_mean_ns, link_loss_mean_ns;
    uint64_t hold; /* of a cut, to keep what is sent meanwhile until it heals */
    uint64_t notice, notice_ns_max;
    /* Processes. */
    uint64_t netd_mean_ns, netd_ns_max;
    uint64_t kill_mean_ns, crash_ops_mean, recovery_crash, restart_ns_max;
    uint64_t power_mean_ns, power_all_mean_ns, pause_mean_ns, pause_ns_max;
    uint64_t stop_mean_ns, transfer_mean_ns;
    uint64_t crashes_max; /* over all nodes */
    /* Disks. */
    struct node_faults disk, disk_slow;
    uint64_t full_mean_ns, rot_mean_ns, wipe_mean_ns;
    /* Clocks. */
    uint64_t drift_ppm_max, jump_mean_ns, jump_ns_max;
    struct bucket_config config; /* .node and .boot are each node's own */
    struct cl_workload workload; /* what clients do: drawn by cl_workload_draw */
};

struct cl_options {
    uint64_t seed;
    bool trace;
    bool outside; /* judge only by what clients see: shows what the checks inside add */
    int plant;    /* enum planted */
    bool without[CL_FAULT_COUNT];
    uint64_t ops_max, crashes_max, storms_max; /* UINT64_MAX: as the swarm wants */
};

struct cl_totals {
    uint64_t virtual_ns, node_ns; /* node_ns: of running processes, summed */
    uint64_t hash, steps;
    uint64_t peer_messages, dropped, duplicated, overtaken, cuts, resets, pauses, jumps, rots,
        wipes, transfers, lost_links, notices;
    struct node_counters node;
    struct oracle_totals oracle;
};

enum cl_node_state { CL_DOWN, CL_RECOVERING, CL_UP };

/* What waits for a node's next turn. */
enum cl_input { INPUT_PEER, INPUT_LINK, INPUT_LOST_LINK, INPUT_NOTICE, INPUT_TRANSFER, INPUT_STOP };
struct cl_waiting {
    enum cl_input input;
    uint32_t from; /* a node, a link */
    uint32_t client;
    struct buf bytes;
};

/* A place where the world has changed data behind the node's back. */
struct rot_spot {
    char path[48];
    uint64_t offset;
    uint32_t len;
    uint8_t bytes[16]; /* as the world left the first of them */
};
#define ROT_SPOTS_MAX 64u

struct cl_node {
    struct cluster *cluster;
    uint32_t index;
    enum cl_node_state state; /* CL_UP: it hears peers and clients */
    bool replica;             /* one of the bucket's replicas: others hold no process */
    struct node node;         /* disk, process; node.bucket is NULL where none runs */
    uint64_t boots;           /* of processes */
    uint64_t boots_behind;    /* see cl_damage_wipe */
    uint64_t start_number;    /* of the planned start that counts */
    uint64_t started_ns;
    uint64_t netd_down_until_ns;
    uint64_t stop_deadline_ns; /* a planned stop: 0 = none */
    struct cl_waiting *waiting;
    uint32_t waiting_count, waiting_cap;
    bool turn_planned;
    uint64_t io_errors_at_start;
    /* Harm to its disk that isn't undone yet. */
    bool wiped;
    uint64_t voter_idx; /* its log's last idx when it was seen to be a voter again */
    struct rot_spot rot[ROT_SPOTS_MAX];
    uint32_t rot_count;
};

enum cl_phase { CL_STORM, CL_CALM, CL_END };

struct cl_net;
struct cl_links;

struct cluster {
    struct cl_options options;
    struct cl_swarm swarm;
    struct sched sched; /* sched.now_ns: the true time; nodes have their own clocks */
    struct trace trace;
    struct prng prng, fault_prng[CL_FAULT_COUNT];
    struct cl_node nodes[CL_NODES_MAX];
    struct cl_net *net;
    struct cl_links *links;
    struct cl_client *clients[CL_CLIENTS_MAX];
    struct oracle *oracle;
    uint64_t ops;        /* sent so far; clients count */
    enum cl_phase phase; /* CL_END: no more faults; everything is to be answered */
    uint64_t storm;      /* number of the last one that began */
    uint64_t end_ns;     /* when CL_END began */
    uint64_t cut_number, crashes;
    uint64_t max_commit_idx; /* ever seen (cl_damage_review) */
    bool over;
    struct cl_totals totals;
};

/* Runs a seed to its end. False: a violation, described in `failure`. */
bool cluster_run(const struct cl_options *options, struct cl_totals *ret_totals,
                 char failure[static 600]);
void cl_swarm_draw(struct cl_swarm *swarm, const struct cl_options *options);
void cl_swarm_print(const struct cl_swarm *swarm, struct buf *out);

/* --- for clients ------------------------------------------------------------------------------ */

/* Messages (one or more, back to back) from a client to a node's bucket. They arrive after a
 * while, in order, as long as the link lasts; false: there is no link at the moment, nothing was
 * sent. */
bool cluster_send(struct cluster *cluster, uint32_t client, uint32_t node, struct span frame);
bool cluster_link_up(const struct cluster *cluster, uint32_t client, uint32_t node);
/* The client lets go of its link; what is under way is lost (cl_client_on_link_lost isn't called).
 * It comes up again after a while (cl_client_on_link_up). */
void cluster_drop_link(struct cluster *cluster, uint32_t client, uint32_t node);

/* The bucket of a node while its process runs, else NULL. */
static inline struct bucket *cluster_bucket(struct cluster *cluster, uint32_t node)
{
    return cluster->nodes[node].node.bucket;
}
