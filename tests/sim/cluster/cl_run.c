/* One run in a process of its own; shrinking. */
#include "tests/sim/cluster/cl_run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bucketd/core/planted.h"
#include "tests/sim/cluster/cl_internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#define LEAKS() __lsan_do_recoverable_leak_check()
#else
#define LEAKS() 0
#endif

const char *const cl_plant_names[] = {
    [PLANT_NONE] = "nothing",
    [PLANT_ACK_BEFORE_SYNC] = "ack-before-sync",
    [PLANT_GRANT_BEFORE_SYNC] = "grant-before-sync",
    [PLANT_COMMIT_BY_LAST_IDX] = "commit-by-last-idx",
    [PLANT_COMMIT_OLD_TERM] = "commit-old-term",
    [PLANT_NO_NOOP] = "no-noop",
    [PLANT_NO_PREV_CHECK] = "no-prev-check",
    [PLANT_CUT_ON_SHORT_APPEND] = "cut-on-short-append",
    [PLANT_CONFLICT_BEFORE_COMMIT] = "conflict-before-commit",
    [PLANT_WATERMARK_INCLUSIVE] = "watermark-inclusive",
    [PLANT_ROT_AS_TORN] = "rot-as-torn",
    [PLANT_READY_TOO_EARLY] = "ready-too-early",
    [PLANT_EMPTY_DISK_VOTES] = "empty-disk-votes",
    [PLANT_OFFSET_WITHOUT_SEGMENT] = "offset-without-segment",
};
_Static_assert(sizeof cl_plant_names / sizeof cl_plant_names[0] == PLANT_COUNT, "a name for each");

static void run_child(const struct cl_options *options, unsigned seconds_max, int result_fd,
                      int error_fd);
static size_t read_all(int fd, void *to, size_t len);

void cl_run(const struct cl_options *options, unsigned seconds_max, struct cl_result *ret_result)
{
    int result[2], error[2];
    fflush(stdout);
    ASSERT(pipe(result) == 0 && pipe(error) == 0);
    pid_t child = fork();
    ASSERT(child >= 0);
    if (child == 0) {
        close(result[0]);
        close(error[0]);
        run_child(options, seconds_max, result[1], error[1]);
    }
    close(result[1]);
    close(error[1]);
    /* Errors first: their end is the child's, and the result fits the pipe. */
    char text[4096];
    size_t text_len = read_all(error[0], text, sizeof text - 1);
    text[text_len] = '\0';
    size_t len = read_all(result[0], ret_result, sizeof *ret_result);
    close(result[0]);
    close(error[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (len == sizeof *ret_result && status == 0)
        return;
    *ret_result = (struct cl_result){0};
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (number == SIGPROF)
        snprintf(ret_result->failure, sizeof ret_result->failure, "it takes more than %u s of CPU",
                 seconds_max);
    else
        snprintf(ret_result->failure, sizeof ret_result->failure,
                 "the process ended (signal %d, status %d): %.480s", number, status, text);
}

_Noreturn static void run_child(const struct cl_options *options, unsigned seconds_max,
                                int result_fd, int error_fd)
{
    struct cl_result result = {0};
    dup2(error_fd, STDERR_FILENO);
    close(error_fd);
    /* Of CPU, so that a busy machine fails no seed. */
    const struct itimerval limit = {.it_value.tv_sec = (time_t)seconds_max};
    setitimer(ITIMER_PROF, &limit, NULL);
    result.ok = cluster_run(options, &result.totals, result.failure);
    if (LEAKS() != 0 && result.ok) {
        result.ok = false;
        snprintf(result.failure, sizeof result.failure, "its end: memory is left");
    }
    fflush(stdout);
    _exit(write(result_fd, &result, sizeof result) == (ssize_t)sizeof result ? 0 : 1);
}

/* What is beyond len is read and dropped. */
static size_t read_all(int fd, void *to, size_t len)
{
    size_t at = 0;
    for (;;) {
        char spare[512];
        bool full = at == len;
        ssize_t got = read(fd, full ? spare : (char *)to + at, full ? sizeof spare : len - at);
        if (got == 0 || (got < 0 && errno != EINTR))
            return at;
        at += full || got < 0 ? 0 : (size_t)got;
    }
}

void cl_print_arguments(const struct cl_options *options, struct buf *out)
{
    buf_printf(out, "--seed %lu", options->seed);
    const char *before = " --without ";
    for (unsigned i = 0; i < CL_FAULT_COUNT; i++) {
        if (!options->without[i])
            continue;
        buf_printf(out, "%s%s", before, cl_fault_names[i]);
        before = ",";
    }
    if (options->ops_max != UINT64_MAX)
        buf_printf(out, " --ops %lu", options->ops_max);
    if (options->crashes_max != UINT64_MAX)
        buf_printf(out, " --crashes %lu", options->crashes_max);
    if (options->storms_max != UINT64_MAX)
        buf_printf(out, " --storms %lu", options->storms_max);
    if (options->plant != PLANT_NONE)
        buf_printf(out, " --plant %s", cl_plant_names[options->plant]);
}

/* --- shrinking --- */

struct shrink {
    struct cl_options best;
    char failure[600], kind[600];
    time_t deadline;
    unsigned tries;
};

/* What went wrong, without numbers: a smaller run must fail in the same way. */
static void kind_of(const char *failure, char kind[static 600])
{
    const char *what = strstr(failure, " ms: ");
    what = what == NULL ? failure : what + 5;
    snprintf(kind, 600, "%.*s", (int)strcspn(what, "0123456789"), what);
}

/* Whether this smaller run fails too; then it's the best so far. */
static bool try_smaller(struct shrink *shrink, const struct cl_options *options)
{
    if (time(NULL) >= shrink->deadline)
        return false;
    struct cl_result result;
    char kind[600];
    cl_run(options, 20, &result);
    shrink->tries++;
    kind_of(result.failure, kind);
    if (result.ok || strcmp(kind, shrink->kind) != 0)
        return false;
    shrink->best = *options;
    snprintf(shrink->failure, sizeof shrink->failure, "%s", result.failure);
    return true;
}

static bool drop_classes(struct shrink *shrink)
{
    bool any = false;
    for (unsigned i = 0; i < CL_FAULT_COUNT; i++) {
        struct cl_options options = shrink->best;
        struct cl_swarm swarm;
        cl_swarm_draw(&swarm, &options);
        if (options.without[i])
            continue;
        options.without[i] = true;
        if (!swarm.faults[i])
            continue;
        any = try_smaller(shrink, &options) || any;
    }
    return any;
}

/* The smallest value of a number that still fails, by halves. */
static bool lower(struct shrink *shrink, size_t number, uint64_t most)
{
    uint64_t good = 0, bad = most; /* at `good` it may not fail, at `bad` it does */
    bool any = false;
    while (good < bad) {
        uint64_t middle = good + (bad - good) / 2;
        struct cl_options options = shrink->best;
        memcpy((char *)&options + number, &middle, sizeof middle);
        if (try_smaller(shrink, &options)) {
            bad = middle;
            any = true;
        } else {
            good = middle + 1;
        }
    }
    return any;
}

void cl_shrink(const struct cl_options *options, const char *failure, unsigned seconds_max)
{
    struct shrink shrink = {.best = *options, .deadline = time(NULL) + (time_t)seconds_max};
    kind_of(failure, shrink.kind);
    for (bool more = true; more && time(NULL) < shrink.deadline;) {
        struct cl_swarm swarm;
        cl_swarm_draw(&swarm, &shrink.best);
        more = lower(&shrink, offsetof(struct cl_options, storms_max), swarm.storms);
        more = drop_classes(&shrink) || more;
        more = lower(&shrink, offsetof(struct cl_options, crashes_max), swarm.crashes_max) || more;
        more = lower(&shrink, offsetof(struct cl_options, ops_max), swarm.ops) || more;
    }
    struct buf arguments = {0};
    cl_print_arguments(&shrink.best, &arguments);
    printf("shrunk in %u runs: %.*s\n", shrink.tries, (int)arguments.len,
           (const char *)arguments.ptr);
    if (shrink.failure[0] != '\0')
        printf("  it fails at %s\n", shrink.failure);
    buf_release(&arguments);
}
