/* The cluster simulator's command line: runs seeds, one after the other, and says what it saw.
 *
 *   csim --seed 1 --seeds 1000             seeds 1..1000
 *   csim --seed 17 --trace                 one seed with a readable trace
 *   csim --seeds 100 --check-determinism   each seed twice: the same trace hash
 *   csim --seed 17 --shrink                a smaller run that fails too
 *   csim --plant list                      the names of the planted bugs
 *   csim --plant all                       each planted bug of the core must be found
 *   csim --plant no-noop                   ... this one
 *   csim --plant no-noop --seed 4 --trace  one seed with it
 *   csim --plant all --outside             found by what clients see alone
 *
 * --without drop,power  --ops N  --crashes N  --storms N   less than the seed wants
 * The last line is "N passed, N failed"; the exit status is 0 only without failures. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "bucketd/core/planted.h"
#include "tests/sim/cluster/cl_internal.h"
#include "tests/sim/cluster/cl_run.h"

#define SECONDS_PER_SEED_MAX 120u
#define SHRINK_SECONDS       180u
#define PLANT_SEEDS_MAX      2000u

struct arguments {
    struct cl_options options;
    uint64_t count;
    bool twice, shrink, all_plants, seed_given;
};

static struct arguments parse(int argc, char **argv);
static int run_traced(const struct arguments *args);
static int run_seeds(const struct arguments *args);
static bool run_seed(const struct arguments *args, uint64_t seed, struct cl_totals *sum);
static void report(const struct cl_options *options, const char *failure);
static int search_plants(const struct arguments *args);
static bool search_plant(const struct arguments *args, int plant);
static void print_totals(const struct cl_totals *sum, double seconds, double cpu, uint64_t seeds);

int main(int argc, char **argv)
{
    struct arguments args = parse(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    if (args.options.trace)
        return run_traced(&args);
    if (args.all_plants || (args.options.plant != PLANT_NONE && !args.seed_given))
        return search_plants(&args);
    return run_seeds(&args);
}

_Noreturn static void usage(void)
{
    fprintf(stderr,
            "usage: csim [--seed N] [--seeds N] [--trace] [--check-determinism] [--shrink] "
            "[--outside]\n"
            "            [--plant NAME|all|list] [--without CLASS,...] [--ops N] [--crashes N] "
            "[--storms N]\nclasses:");
    for (unsigned i = 0; i < CL_FAULT_COUNT; i++)
        fprintf(stderr, " %s", cl_fault_names[i]);
    fprintf(stderr, "\nplanted bugs:");
    for (unsigned i = PLANT_NONE + 1; i < PLANT_COUNT; i++)
        fprintf(stderr, " %s", cl_plant_names[i]);
    fprintf(stderr, "\n");
    exit(2);
}

static void parse_without(struct cl_options *options, char *list)
{
    for (char *rest = NULL, *name = strtok_r(list, ",", &rest); name != NULL;
         name = strtok_r(NULL, ",", &rest)) {
        unsigned i = 0;
        while (i < CL_FAULT_COUNT && strcmp(name, cl_fault_names[i]) != 0)
            i++;
        if (i == CL_FAULT_COUNT)
            usage();
        options->without[i] = true;
    }
}

static int parse_plant(const char *name)
{
    int i = PLANT_NONE;
    while (i < PLANT_COUNT && strcmp(name, cl_plant_names[i]) != 0)
        i++;
    if (i == PLANT_COUNT)
        usage();
    return i;
}

static struct arguments parse(int argc, char **argv)
{
    struct arguments args = {
        .count = 1,
        .options = {
            .seed = 1, .ops_max = UINT64_MAX, .crashes_max = UINT64_MAX, .storms_max = UINT64_MAX}};
    for (int i = 1; i < argc; i++) {
        char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--trace") == 0) {
            args.options.trace = true;
            continue;
        } else if (strcmp(argv[i], "--check-determinism") == 0) {
            args.twice = true;
            continue;
        } else if (strcmp(argv[i], "--outside") == 0) {
            args.options.outside = true;
            continue;
        } else if (strcmp(argv[i], "--shrink") == 0) {
            args.shrink = true;
            continue;
        } else if (value == NULL) {
            usage();
        } else if (strcmp(argv[i], "--seed") == 0) {
            args.options.seed = strtoull(value, NULL, 10);
            args.seed_given = true;
        } else if (strcmp(argv[i], "--seeds") == 0) {
            args.count = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--ops") == 0) {
            args.options.ops_max = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--crashes") == 0) {
            args.options.crashes_max = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--storms") == 0) {
            args.options.storms_max = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--without") == 0) {
            parse_without(&args.options, value);
        } else if (strcmp(argv[i], "--plant") == 0 && strcmp(value, "all") == 0) {
            args.all_plants = true;
        } else if (strcmp(argv[i], "--plant") == 0 && strcmp(value, "list") == 0) {
            for (unsigned plant = PLANT_NONE + 1; plant < PLANT_COUNT; plant++)
                printf("%s\n", cl_plant_names[plant]);
            exit(0);
        } else if (strcmp(argv[i], "--plant") == 0) {
            args.options.plant = parse_plant(value);
        } else {
            usage();
        }
        i++;
    }
    return args;
}

/* In this process: for a debugger. */
static int run_traced(const struct arguments *args)
{
    struct cl_totals totals;
    char failure[600];
    struct cl_swarm swarm;
    struct buf text = {0};
    cl_swarm_draw(&swarm, &args->options);
    cl_swarm_print(&swarm, &text);
    printf("%.*s", (int)text.len, (const char *)text.ptr);
    buf_release(&text);
    bool ok = cluster_run(&args->options, &totals, failure);
    printf("hash %016lx after %lu steps%s%s\n%d passed, %d failed\n", totals.hash, totals.steps,
           ok ? "" : "; FAILED at ", failure, ok, !ok);
    return ok ? 0 : 1;
}

static int run_seeds(const struct arguments *args)
{
    struct cl_totals sum = {0};
    struct timespec begin, end;
    uint64_t failed = 0;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint64_t i = 0; i < args->count; i++)
        failed += !run_seed(args, args->options.seed + i, &sum);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds =
        (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    print_totals(&sum, seconds, cpu, args->count);
    printf("%lu passed, %lu failed\n", args->count - failed, failed);
    return failed == 0 ? 0 : 1;
}

static bool run_seed(const struct arguments *args, uint64_t seed, struct cl_totals *sum)
{
    struct cl_options options = args->options;
    options.seed = seed;
    struct cl_result result, again;
    cl_run(&options, SECONDS_PER_SEED_MAX, &result);
    if (result.ok && args->twice) {
        cl_run(&options, SECONDS_PER_SEED_MAX, &again);
        if (result.totals.hash != again.totals.hash || result.totals.steps != again.totals.steps) {
            result.ok = false;
            snprintf(result.failure, sizeof result.failure,
                     "not the same run twice: hash %016lx and %016lx, steps %lu and %lu",
                     result.totals.hash, again.totals.hash, result.totals.steps,
                     again.totals.steps);
        }
    }
    const uint64_t *from = (const uint64_t *)&result.totals;
    uint64_t *to = (uint64_t *)sum;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
    if (result.ok)
        return true;
    report(&options, result.failure);
    if (args->shrink)
        cl_shrink(&options, result.failure, SHRINK_SECONDS);
    return false;
}

static void report(const struct cl_options *options, const char *failure)
{
    struct cl_swarm swarm;
    struct buf text = {0};
    cl_swarm_draw(&swarm, options);
    cl_swarm_print(&swarm, &text);
    printf("seed %lu FAILED at %s\n%.*s", options->seed, failure, (int)text.len,
           (const char *)text.ptr);
    buf_release(&text);
}

/* --- planted bugs --- */

/* Each must be found within a bounded number of seeds, or the checks prove nothing. */
static int search_plants(const struct arguments *args)
{
    int passed = 0, failed = 0;
    for (int plant = PLANT_NONE + 1; plant < PLANT_COUNT; plant++) {
        if (!args->all_plants && plant != args->options.plant)
            continue;
        bool found = search_plant(args, plant);
        passed += found;
        failed += !found;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}

static bool search_plant(const struct arguments *args, int plant)
{
    struct cl_options options = args->options;
    options.plant = plant;
    struct cl_result result = {.ok = true};
    uint64_t seeds = 0;
    for (; seeds < PLANT_SEEDS_MAX && result.ok; seeds++) {
        cl_run(&options, SECONDS_PER_SEED_MAX, &result);
        options.seed += result.ok;
    }
    if (result.ok)
        printf("planted: %s: NOT FOUND in %lu seeds\n", cl_plant_names[plant], seeds);
    else
        printf("planted: %s: found after %lu seeds (%lu): %s\n", cl_plant_names[plant], seeds,
               options.seed, result.failure);
    return !result.ok;
}

static void print_totals(const struct cl_totals *sum, double seconds, double cpu, uint64_t seeds)
{
    const struct node_counters *node = &sum->node;
    const struct oracle_totals *oracle = &sum->oracle;
    printf("seeds=%lu seconds=%.1f cpu_ms=%.0f virtual_s=%lu node_s=%lu steps=%lu starts=%lu "
           "power_cuts=%lu kills=%lu stops=%lu in_recovery=%lu fatals=%lu io_errors=%lu "
           "disk_ops=%lu\n",
           seeds, seconds, cpu * 1e3, sum->virtual_ns / SECOND, sum->node_ns / SECOND, sum->steps,
           node->starts, node->power_cuts, node->kills, node->stops, node->recovery_deaths,
           node->fatals, node->io_errors, node->disk_ops);
    printf("peer_messages=%lu dropped=%lu duplicated=%lu overtaken=%lu cuts=%lu resets=%lu "
           "pauses=%lu jumps=%lu rots=%lu wipes=%lu transfers=%lu lost_links=%lu notices=%lu "
           "elections=%lu\n",
           sum->peer_messages, sum->dropped, sum->duplicated, sum->overtaken, sum->cuts,
           sum->resets, sum->pauses, sum->jumps, sum->rots, sum->wipes, sum->transfers,
           sum->lost_links, sum->notices, oracle->elections);
    printf("ops=%lu acked_txs=%lu acked_events=%lu refusals=%lu unknown=%lu reads=%lu tails=%lu; "
           "node-hours per minute of CPU: %.1f, operations per second of CPU: %.0f\n",
           oracle->ops, oracle->acked_txs, oracle->acked_events, oracle->refusals, oracle->unknown,
           oracle->reads, oracle->tails, (double)sum->node_ns / 3.6e12 / (cpu / 60),
           (double)oracle->ops / cpu);
}
