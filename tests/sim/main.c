/* The simulator's command line: runs seeds, one after the other, and says what it saw.
 *
 *   sim --seed 1 --seeds 1000            seeds 1..1000
 *   sim --seed 17 --trace                one seed with a readable trace
 *   sim --seeds 100 --check-determinism  each seed twice: the same trace hash
 *   sim --self-test                      planted bugs of the world must be found
 *
 * The last line is "N passed, N failed"; the exit status is 0 only without failures. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/world.h"

#define SECONDS_PER_SEED_MAX 60u
#define SELF_TEST_SEEDS_MAX  200u

struct arguments {
    uint64_t first, count;
    bool trace, twice, self_test;
    enum planted_bug plant;
};

/* What the handler of a fatal signal prints; the core ends the process where its invariants are
 * broken. */
static volatile uint64_t seed_at_hand;

static struct arguments parse(int argc, char **argv);
static bool run_seed(const struct arguments *args, uint64_t seed, struct world_totals *sum);
static void add_totals(struct world_totals *sum, const struct world_totals *totals);
static void print_totals(const struct world_totals *sum, double seconds, uint64_t seeds);
static int self_test(void);
static void on_fatal_signal(int number);

int main(int argc, char **argv)
{
    struct arguments args = parse(argc, argv);
    signal(SIGABRT, on_fatal_signal);
    signal(SIGSEGV, on_fatal_signal);
    signal(SIGALRM, on_fatal_signal);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (args.self_test)
        return self_test();
    struct world_totals sum = {0};
    struct timespec begin, end;
    uint64_t failed = 0;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint64_t seed = args.first; seed < args.first + args.count; seed++)
        failed += !run_seed(&args, seed, &sum);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds =
        (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
    print_totals(&sum, seconds, args.count);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", args.count - failed, failed);
    return failed == 0 ? 0 : 1;
}

static void usage(void)
{
    fprintf(stderr,
            "usage: sim [--seed N] [--seeds N] [--trace] [--check-determinism] [--plant 1..%d] "
            "[--self-test]\n",
            PLANT_COUNT - 1);
    exit(2);
}

static struct arguments parse(int argc, char **argv)
{
    struct arguments args = {.first = 1, .count = 1};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--trace") == 0)
            args.trace = true;
        else if (strcmp(argv[i], "--check-determinism") == 0)
            args.twice = true;
        else if (strcmp(argv[i], "--self-test") == 0)
            args.self_test = true;
        else if (strcmp(argv[i], "--seed") == 0 && has_value)
            args.first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seeds") == 0 && has_value)
            args.count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--plant") == 0 && has_value)
            args.plant = (enum planted_bug)(strtoul(argv[++i], NULL, 10) % PLANT_COUNT);
        else
            usage();
    }
    return args;
}

static bool run_seed(const struct arguments *args, uint64_t seed, struct world_totals *sum)
{
    struct world_options options = {.seed = seed, .trace = args->trace, .plant = args->plant};
    struct world_totals totals, again;
    char failure[600];
    seed_at_hand = seed;
    alarm(args->trace ? 0 : SECONDS_PER_SEED_MAX);
    bool ok = world_run(&options, &totals, failure);
    if (ok && args->twice) {
        ok = world_run(&options, &again, failure);
        if (ok && (totals.hash != again.hash || totals.steps != again.steps)) {
            ok = false;
            snprintf(failure, sizeof failure,
                     "not the same run twice: hash %016" PRIx64 " and %016" PRIx64, totals.hash,
                     again.hash);
        }
    }
    alarm(0);
    add_totals(sum, &totals);
    if (!ok) {
        struct swarm swarm;
        struct buf text = {0};
        /* As world_init draws it. */
        struct prng prng = {.state = seed * 0x2545f4914f6cdd1dull + 1};
        struct prng draws = prng_fork(&prng);
        swarm_draw(&swarm, &draws);
        swarm_print(&swarm, &text);
        printf("seed %" PRIu64 " FAILED at %s\n%.*s", seed, failure, (int)text.len,
               (const char *)text.ptr);
        buf_release(&text);
    }
    return ok;
}

static void add_totals(struct world_totals *sum, const struct world_totals *totals)
{
    sum->virtual_ns += totals->virtual_ns;
    sum->txs += totals->txs;
    sum->acked_txs += totals->acked_txs;
    sum->acked_events += totals->acked_events;
    sum->refusals += totals->refusals;
    sum->reads += totals->reads;
    sum->tails += totals->tails;
    sum->images += totals->images;
    sum->damaged_seeds += totals->damaged_seeds;
    sum->node.disk_ops += totals->node.disk_ops;
    sum->node.starts += totals->node.starts;
    sum->node.power_cuts += totals->node.power_cuts;
    sum->node.kills += totals->node.kills;
    sum->node.fatals += totals->node.fatals;
    sum->node.stops += totals->node.stops;
    sum->node.io_errors += totals->node.io_errors;
    sum->node.recovery_deaths += totals->node.recovery_deaths;
    sum->steps += totals->steps;
}

static void print_totals(const struct world_totals *sum, double seconds, uint64_t seeds)
{
    const struct node_counters *node = &sum->node;
    printf("seeds=%" PRIu64 " seconds=%.1f virtual_s=%" PRIu64 " starts=%" PRIu64
           " power_cuts=%" PRIu64 " kills=%" PRIu64 " stops=%" PRIu64 " in_recovery=%" PRIu64
           " fatals=%" PRIu64 " io_errors=%" PRIu64 " disk_ops=%" PRIu64 "\n",
           seeds, seconds, sum->virtual_ns / SECOND, node->starts, node->power_cuts, node->kills,
           node->stops, node->recovery_deaths, node->fatals, node->io_errors, node->disk_ops);
    printf("txs=%" PRIu64 " acked_txs=%" PRIu64 " acked_events=%" PRIu64 " refusals=%" PRIu64
           " reads=%" PRIu64 " tails=%" PRIu64 " images=%" PRIu64 " rotten_seeds=%" PRIu64
           " steps=%" PRIu64 "\n",
           sum->txs, sum->acked_txs, sum->acked_events, sum->refusals, sum->reads, sum->tails,
           sum->images, sum->damaged_seeds, sum->steps);
}

/* Each planted bug must be found within a bounded number of seeds, or the checker proves nothing.
 */
static int self_test(void)
{
    int passed = 0, failed = 0;
    for (int plant = PLANT_NOTHING + 1; plant < PLANT_COUNT; plant++) {
        uint64_t seed = 1;
        bool found = false;
        char failure[600];
        struct world_totals totals;
        for (; seed <= SELF_TEST_SEEDS_MAX && !found; seed++) {
            seed_at_hand = seed;
            struct world_options options = {.seed = seed, .plant = (enum planted_bug)plant};
            found = !world_run(&options, &totals, failure);
        }
        printf("planted: %s: %s after %" PRIu64 " seeds%s%s\n", planted_bug_names[plant],
               found ? "found" : "NOT FOUND", seed - 1, found ? ": " : "", found ? failure : "");
        passed += found;
        failed += !found;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}

static void on_fatal_signal(int number)
{
    char text[96];
    const char *what = number == SIGALRM ? "takes too long" : "ended the process";
    int len = snprintf(text, sizeof text, "seed %" PRIu64 " FAILED: it %s (signal %d)\n",
                       (uint64_t)seed_at_hand, what, number);
    if (write(STDOUT_FILENO, text, (size_t)len) < 0)
        _exit(3);
    signal(number, SIG_DFL);
    raise(number);
    _exit(3);
}
