/* One incarnation of a child process: spawned with a cleaned environment, watched until it ends. */
#pragma once

#include <uv.h>

#include "common/config.h"
#include "common/uuid.h"

struct process;

struct process_spec {
    const char *exe;            /* absolute */
    uint64_t index, boot, supervisor_boot;
    const char *link_path;      /* where it listens for the supervisor */
    uint64_t age_ms;            /* when this node started, ms since the epoch */
    struct uuid cluster_id;
    int config_fd;              /* the resolved configuration; the child gets it as descriptor 3 */
    unsigned pool_threads;      /* UV_THREADPOOL_SIZE */
};

/* how: "exit 1" or "signal 9 (Killed)"; again: it ended in order to be started again
 * (CHILD_EXIT_AGAIN). The process is freed afterwards. */
typedef void process_exit_fn(void *ctx, const char *how, bool again);

/* Must be called on the main thread: PR_SET_PDEATHSIG follows the thread that forked. NULL:
 * logged. */
struct process *process_start(uv_loop_t *loop, const struct process_spec *spec,
                              process_exit_fn *on_exit, void *ctx, const struct log *log);
void process_kill(struct process *process);
int process_pid(const struct process *process);

/* Finds "sierradb-netd" and its like: beside this program, in the build tree, or in libexec.
 * ret_path: absolute, to be freed. */
enum err process_find_exe(const char *name, const char *build_folder, char **ret_path) MUST_CHECK;
/* The configuration in a sealed, anonymous file. Returns its descriptor. */
int process_config_fd(const struct config *config);
