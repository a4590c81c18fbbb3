/* The child's side of the supervisor link, the same for bucketd and netd: hello, introductions,
 * statistics, stop. A child ends when its supervisor does (PR_SET_PDEATHSIG, and the loss of
 * this link). */
#pragma once

#include "common/config.h"
#include "proto/link.h"

struct child;

/* Exit status of a child that wants to be started again at once: nothing went wrong. */
#define CHILD_EXIT_AGAIN 75

/* What the supervisor put on the command line:
 *   sierradb-bucketd --index 3 --boot 17 --supervisor-boot 1 --age 1764000000000
 *     --supervisor /…/run/sup-b3.17.ipc --config-fd 3 --parent 4711
 *     --cluster 0c3f…  (its id) */
struct child_args {
    uint64_t index;             /* bucket number; 0 for netd */
    uint64_t boot, supervisor_boot;
    uint64_t age_ms;            /* when this node started, ms since the epoch: smaller is older */
    const char *supervisor_path;
    struct uuid cluster_id;
    int config_fd;
};

struct child_callbacks {
    void *ctx;
    /* Make this link's listening socket; the supervisor is told the result. */
    enum err (*on_link_listen)(void *ctx, uint64_t link, uint64_t peer_index, uint64_t peer_boot,
                               const char *path);
    void (*on_link_dial)(void *ctx, uint64_t link, uint64_t peer_index, uint64_t peer_boot,
                         const char *path);
    /* netd; may be NULL */
    void (*on_bucket_state)(void *ctx, uint64_t bucket, enum bucket_state state);
    void (*on_bucket_ended)(void *ctx, uint64_t bucket, uint64_t boot);
    /* Fills in all but req_id; views must live until the next call. */
    void (*on_report)(void *ctx, struct msg_report_reply *ret_report);
    /* Finish what is in flight, then child_bye. */
    void (*on_stop)(void *ctx, uint64_t deadline_ms);
    /* Appends "name value\n" lines. */
    void (*on_stats)(void *ctx, struct buf *out);
};

/* First thing in main, before any thread: closes inherited descriptors but 0, 1, 2
 * and the config's, dies with the parent, ignores SIGPIPE, SIGINT and SIGTERM (the supervisor
 * says stop over the link), parses argv, reads the configuration and sets up the log. Exits with
 * a message where something is wrong: nobody but the supervisor starts a child. */
void child_init(int argc, char **argv, const char *proc, struct child_args *ret_args,
                struct config *ret_config, struct log *ret_log);
/* Opens the link to the supervisor and says hello when it is up. */
enum err child_open(uv_loop_t *loop, const struct child_args *args, const struct log *log,
                    const struct child_callbacks *callbacks, struct child **ret_child) MUST_CHECK;
/* The supervisor said hello: it knows that this process lives. */
bool child_is_up(const struct child *child);
void child_ready(struct child *child, uint64_t recovery_us);
void child_link_state(struct child *child, uint64_t link, bool up);
/* Sends bye, and _exit(0) when the supervisor has read it. */
void child_bye(struct child *child);
/* End of a turn. */
void child_flush(struct child *child);
