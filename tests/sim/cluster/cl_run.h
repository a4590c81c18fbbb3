/* Runs of seeds in processes of their own, so that one which the core ends (a broken invariant) is
 * a result like the others. */
#pragma once

#include "tests/sim/cluster/cluster.h"

struct cl_result {
    bool ok;
    struct cl_totals totals;
    char failure[600];
};

/* seconds_max: so much CPU, then it counts as failed. */
void cl_run(const struct cl_options *options, unsigned seconds_max, struct cl_result *ret_result);
/* Tries to make a failing run smaller, for seconds_max at most: fewer fault classes, operations,
 * crashes, storms. It must still fail in the way that `failure` tells. Prints what it finds. */
void cl_shrink(const struct cl_options *options, const char *failure, unsigned seconds_max);
/* The arguments that make this run: "--seed 17 --without drop,power --ops 50". */
void cl_print_arguments(const struct cl_options *options, struct buf *out);

/* enum planted, "nothing" first. */
extern const char *const cl_plant_names[];
