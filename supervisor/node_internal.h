/* The node's state, shared by node.c (life), requests.c (what operators ask for) and report.c (what
 * they see). */
#pragma once

#include <uv.h>

#include "common/uuid.h"
#include "proto/link.h"
#include "supervisor/control.h"
#include "supervisor/datadir.h"
#include "supervisor/process.h"
#include "supervisor/supervisor.h"

struct node;

/* Rates, from two answers to stats_req. */
struct child_stats {
    struct buf text;            /* "name value\n" lines of the last answer; empty: none yet */
    uint64_t answered_ms;       /* when it came */
    uint64_t appends, reads;    /* of the last answer */
    double appends_per_s, reads_per_s;
    bool unanswered_logged;
};

struct node_child {
    struct node *node;
    unsigned number;            /* in supervisor.children */
    struct process *process;    /* NULL: none runs */
    struct link *link;          /* NULL: lost, or let go */
    bool link_up;
    char link_path[IPC_PATH_LEN_MAX + 1];
    struct child_stats stats;
};

/* Operators who wait for netd's report. */
#define REPORTS_MAX 16u
struct awaited_report {
    uint64_t token; /* the control socket's; 0: free */
    uint64_t req_id;
    uint64_t until_ms;
};

struct node {
    const struct config *config;
    struct log log;
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_timer_t timer, stats_timer;
    uv_signal_t signals[3];
    struct datadir *datadir;
    struct uuid cluster_id;
    char *netd_exe, *bucketd_exe;
    int config_fd;
    uint64_t boot;
    uint64_t age_ms;            /* when this node started, ms since the epoch */
    uint64_t started_ms;
    uint64_t stats_req_id;
    uint64_t stats_asked_ms;    /* the children, for their counters */
    uint64_t looked_ms;         /* when an operator last asked for the status; 0: never */
    uint64_t stop_ms;           /* when a stop was last asked for; 0: never */
    struct supervisor supervisor;
    struct node_child *children;
    struct control *control;
    struct awaited_report reports[REPORTS_MAX];
    uint64_t report_req_id;
};

static inline uint64_t node_now_ms(void)
{
    return uv_hrtime() / 1000000;
}

/* --- requests.c: what operators ask for --- */
json_t *requests_answer(void *ctx, const json_t *request, uint64_t token);
void requests_on_report(struct node *node, const struct msg_report_reply *report);
/* Those who have waited until now get an error. */
void requests_expire(struct node *node, uint64_t now_ms);

/* --- report.c --- */
void report_on_stats(struct node_child *child, struct span text, uint64_t now_ms);
/* The child ended: what it said no longer holds. */
void report_forget(struct node_child *child);
/* The answer to `sierradb status`. */
json_t *report_status(const struct node *node);
