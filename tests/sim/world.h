/* A simulated world: one seed, one bucket process on its disk, several netds (clients), and the
 * model that knows what must be true. What each seed tries, which faults and how much of them,
 * is drawn from it (swarm). */
#pragma once

#include "tests/sim/client.h"
#include "tests/sim/model.h"
#include "tests/sim/node.h"

#define CLIENTS_MAX 4u

enum planted_bug {
    PLANT_NOTHING,
    PLANT_SYNC_LIES,        /* the disk's sync does nothing: answers before anything is durable */
    /* a power cut takes synced pieces: rot that recovery must not swallow */
    PLANT_CUT_TAKES_DURABLE,
    PLANT_ANSWER_CHANGED,   /* one payload byte of one answer flips on its way */
    PLANT_TAIL_DROPPED,     /* one tail message is lost */
    PLANT_REFUSAL_CHANGED,  /* one refusal tells another version than the bucket did */
    PLANT_COUNT
};
extern const char *const planted_bug_names[PLANT_COUNT];

/* What a seed draws. Chances are in a million. */
struct swarm {
    uint32_t clients, streams, partitions_used, tx_events_max, payload_max;
    uint32_t window, batch;         /* requests in flight, requests in a frame */
    uint32_t tx_budget;
    uint64_t think_ns, idle_chance;
    uint32_t append_weight, get_weight, scan_weight, number_weight, follow_weight;
    uint64_t multi_chance; /* of a transaction of several events */
    uint64_t big_chance;   /* of a payload up to payload_max */
    uint64_t exact_chance, wrong_chance, given_chance, repeat_chance, copy_chance, invalid_chance;
    uint64_t crash_ops_mean;        /* disk operations between crashes */
    uint64_t recovery_crash_chance, power_chance, stop_chance, timed_crash_chance, link_loss_ns;
    bool full, index_damage, rot;
    struct node_faults faults;
    struct bucket_config config;
    uint32_t crashes_max;
};

struct world_options {
    uint64_t seed;
    bool trace;
    enum planted_bug plant;
};

struct world_totals {
    uint64_t virtual_ns, txs, acked_txs, acked_events, refusals, reads, tails, images,
        damaged_seeds;
    struct node_counters node;
    uint64_t hash, steps;
};

/* A read's answer whose exactness shows when the log is known up to its watermark. */
struct read_check {
    enum msg_tag tag;
    uint32_t partition, stream;
    bool reverse, more;
    uint64_t from, to, first, count, watermark; /* of a version: `more` = present, `first` = it */
};

struct world {
    struct world_options options;
    struct swarm swarm;
    struct sched sched;
    struct trace trace;
    struct prng prng;
    struct model model;
    struct node node;
    struct client clients[CLIENTS_MAX];
    struct read_check *reads;   /* not judged yet */
    uint32_t read_count, read_cap;
    uint64_t next_link, arrivals;
    uint64_t errors_at_start;   /* injected ones, when the process started */
    bool finishing, ready, over, rot_done, refused_start, plant_done;
    uint64_t finish_ns;
    struct world_totals totals;
};

/* Runs a seed to its end. False: a violation, described in `failure`. */
bool world_run(const struct world_options *options, struct world_totals *ret_totals,
               char failure[static 600]);

void swarm_draw(struct swarm *swarm, struct prng *prng);
void swarm_print(const struct swarm *swarm, struct buf *out);

/* checker.c */
/* The requests of a frame reach the bucket now; the first has this id, the others follow. */
void checker_on_arrival(struct world *world, struct client *client, uint64_t first_request,
                        struct span frame);
/* Messages leave the bucket now. */
void checker_on_frame(struct world *world, struct client *client, struct span frame);
/* The process runs on this disk: what is durable on it is the truth from now on. */
void checker_adopt(struct world *world);
/* What is on the disk after a crash must hold all that was ever shown, and reading it twice must
 * give the same. */
void checker_after_end(struct world *world);
/* What is durable now must hold all that was ever shown. */
void checker_compare_durable(struct world *world);
/* Judges what had to wait until the logs were known. */
void checker_judge(struct world *world);
/* Nothing is under way: everything must have been answered and delivered. */
void checker_at_rest(struct world *world);

/* damage.c */
/* Between two incarnations: index files lost or damaged, rot in data, as the swarm wants. */
void damage_disk(struct world *world);
