/* A child's start, its link to the supervisor and its end. */
#include "proto/child.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/assert.h"

/* How long bye may take; then the process leaves anyway. */
#define BYE_MS_MAX 500

struct child {
    const struct log *log;
    struct child_callbacks callbacks;
    struct link *link;
    uv_timer_t bye_timer;
    bool bye;
};

static void parse_args(int argc, char **argv, struct child_args *ret_args, uint64_t *ret_parent);
static uint64_t parse_number(const char *option, const char *text);
static void read_config(int fd, struct config *ret_config);
_Noreturn static void refuse(const char *what, const char *detail);
static void on_up(void *ctx, struct link *link);
static void on_down(void *ctx, struct link *link);
static void on_message(void *ctx, struct link *link, const struct msg *msg);
static void on_link_listen(struct child *child, const struct msg_link_listen *m);
static void on_link_dial(struct child *child, const struct msg_link_dial *m);
static void on_stats_req(struct child *child, const struct msg_stats_req *m);
static void on_report_req(struct child *child, const struct msg_report_req *m);
static char *copy_path(struct span path);
static void on_bye_timer(uv_timer_t *timer);

void child_init(int argc, char **argv, const char *proc, struct child_args *ret_args,
                struct config *ret_config, struct log *ret_log)
{
    uint64_t parent;
    parse_args(argc, argv, ret_args, &parent);
    unsigned keep = (unsigned)ret_args->config_fd;
    if (keep > 3)
        close_range(3, keep - 1, 0);
    close_range(keep + 1, ~0u, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((uint64_t)getppid() != parent)
        _exit(EXIT_FAILURE); /* it died before we asked to be told */
    static const int ignored[] = {SIGPIPE, SIGINT, SIGTERM, SIGHUP};
    for (unsigned i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
    read_config(ret_args->config_fd, ret_config);
    close(ret_args->config_fd);
    *ret_log = (struct log){0};
    log_level_parse(ret_config->log_level, &ret_log->level);
    if (strcmp(proc, "bucketd") == 0)
        snprintf(ret_log->proc, sizeof ret_log->proc, "%s-%lu", proc, ret_args->index);
    else
        snprintf(ret_log->proc, sizeof ret_log->proc, "%s", proc);
}

enum err child_open(uv_loop_t *loop, const struct child_args *args, const struct log *log,
                    const struct child_callbacks *callbacks, struct child **ret_child)
{
    struct child *child = calloc(1, sizeof *child);
    ASSERT(child != NULL);
    child->log = log;
    child->callbacks = *callbacks;
    struct link_config config = {.path = args->supervisor_path,
                                 .listen = true,
                                 .own_boot = args->boot,
                                 .peer_boot = args->supervisor_boot,
                                 .own_index = args->index,
                                 .log = log};
    struct link_callbacks link_callbacks = {
        .ctx = child, .on_up = on_up, .on_down = on_down, .on_message = on_message};
    enum err err = link_open(loop, &config, &link_callbacks, &child->link);
    if (err != ERR_OK) {
        free(child);
        return err;
    }
    ASSERT(uv_timer_init(loop, &child->bye_timer) == 0);
    child->bye_timer.data = child;
    *ret_child = child;
    return ERR_OK;
}

bool child_is_up(const struct child *child)
{
    return link_is_up(child->link);
}

void child_ready(struct child *child, uint64_t recovery_us)
{
    msg_pack_child_ready(link_outbox(child->link),
                         &(struct msg_child_ready){.recovery_us = recovery_us});
}

void child_link_state(struct child *child, uint64_t link, bool up)
{
    msg_pack_link_state(link_outbox(child->link), &(struct msg_link_state){.link = link, .up = up});
}

/* The supervisor closes the link when it has read bye. */
void child_bye(struct child *child)
{
    if (child->bye)
        return;
    child->bye = true;
    static const struct msg_bye bye;
    msg_pack_bye(link_outbox(child->link), &bye);
    link_flush(child->link);
    uv_timer_start(&child->bye_timer, on_bye_timer, BYE_MS_MAX, 0);
}

void child_flush(struct child *child)
{
    link_flush(child->link);
}

/* --- Start --- */

static void parse_args(int argc, char **argv, struct child_args *ret_args, uint64_t *ret_parent)
{
    enum { INDEX = 1, BOOT, SUPERVISOR_BOOT, AGE, SUPERVISOR, CONFIG_FD, PARENT, CLUSTER, OPTIONS };
    static const struct option options[] = {
        {"index", required_argument, NULL, INDEX},
        {"boot", required_argument, NULL, BOOT},
        {"supervisor-boot", required_argument, NULL, SUPERVISOR_BOOT},
        {"age", required_argument, NULL, AGE},
        {"supervisor", required_argument, NULL, SUPERVISOR},
        {"config-fd", required_argument, NULL, CONFIG_FD},
        {"parent", required_argument, NULL, PARENT},
        {"cluster", required_argument, NULL, CLUSTER},
        {0},
    };
    const char *values[OPTIONS] = {0};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option < INDEX || option >= OPTIONS)
            refuse("unknown option", "");
        values[option] = optarg;
    }
    for (int i = INDEX; i < OPTIONS; i++) {
        if (values[i] == NULL)
            refuse("missing option --", options[i - INDEX].name);
    }
    *ret_args = (struct child_args){
        .index = parse_number("index", values[INDEX]),
        .boot = parse_number("boot", values[BOOT]),
        .supervisor_boot = parse_number("supervisor-boot", values[SUPERVISOR_BOOT]),
        .age_ms = parse_number("age", values[AGE]),
        .supervisor_path = values[SUPERVISOR],
        .config_fd = (int)parse_number("config-fd", values[CONFIG_FD]),
    };
    if (!uuid_parse(span_str(values[CLUSTER]), &ret_args->cluster_id))
        refuse("not a UUID: --", "cluster");
    *ret_parent = parse_number("parent", values[PARENT]);
}

static uint64_t parse_number(const char *option, const char *text)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-')
        refuse("not a number: --", option);
    return value;
}

static void read_config(int fd, struct config *ret_config)
{
    struct buf text = {0}, error = {0};
    for (;;) {
        /* pread: all children share the descriptor's offset. */
        ssize_t len = pread(fd, buf_reserve(&text, 65536), 65536, (off_t)text.len);
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            refuse("configuration: ", strerror(errno));
        if (len == 0)
            break;
        text.len += (size_t)len;
    }
    config_init(ret_config);
    enum err err = config_parse(ret_config, buf_span(&text), "configuration", &error);
    if (err == ERR_OK)
        err = config_finish(ret_config, &error);
    buf_append_zeros(&error, 1);
    if (err != ERR_OK)
        refuse("configuration: ", (char *)error.ptr);
    buf_release(&text);
    buf_release(&error);
}

_Noreturn static void refuse(const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s%s\nThis program is started by sierradb.\n",
            program_invocation_short_name, what, detail);
    _exit(2);
}

/* --- The link --- */

static void on_up(void *ctx, struct link *link)
{
    (void)ctx;
    msg_pack_child_hello(link_outbox(link),
                         &(struct msg_child_hello){.pid = (uint64_t)getpid(),
                                                   .version = span_str(SIERRADB_VERSION)});
}

static void on_down(void *ctx, struct link *link)
{
    (void)link;
    struct child *child = ctx;
    if (!child->bye)
        log_error(child->log, "supervisor.lost", NULL);
    _exit(child->bye ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void on_message(void *ctx, struct link *link, const struct msg *msg)
{
    (void)link;
    struct child *child = ctx;
    const struct child_callbacks *callbacks = &child->callbacks;
    if (msg->tag == TAG_link_listen)
        on_link_listen(child, &msg->u.link_listen);
    else if (msg->tag == TAG_link_dial)
        on_link_dial(child, &msg->u.link_dial);
    else if (msg->tag == TAG_bucket_state && callbacks->on_bucket_state != NULL &&
             msg->u.bucket_state.state <= BUCKET_DOWN)
        callbacks->on_bucket_state(callbacks->ctx, msg->u.bucket_state.bucket,
                                   (enum bucket_state)msg->u.bucket_state.state);
    else if (msg->tag == TAG_bucket_ended && callbacks->on_bucket_ended != NULL)
        callbacks->on_bucket_ended(callbacks->ctx, msg->u.bucket_ended.bucket,
                                   msg->u.bucket_ended.boot);
    else if (msg->tag == TAG_report_req && callbacks->on_report != NULL)
        on_report_req(child, &msg->u.report_req);
    else if (msg->tag == TAG_stop)
        callbacks->on_stop(callbacks->ctx, msg->u.stop.deadline_ms);
    else if (msg->tag == TAG_stats_req)
        on_stats_req(child, &msg->u.stats_req);
    else
        log_warn(child->log, "supervisor.message_unknown", "message=%s", msg_name(msg->tag));
}

static void on_link_listen(struct child *child, const struct msg_link_listen *m)
{
    char *path = copy_path(m->path);
    enum err err = child->callbacks.on_link_listen(child->callbacks.ctx, m->link, m->peer_index,
                                                   m->peer_boot, path);
    free(path);
    msg_pack_link_listening(link_outbox(child->link),
                            &(struct msg_link_listening){.link = m->link, .error = err});
}

static void on_link_dial(struct child *child, const struct msg_link_dial *m)
{
    char *path = copy_path(m->path);
    child->callbacks.on_link_dial(child->callbacks.ctx, m->link, m->peer_index, m->peer_boot, path);
    free(path);
}

static void on_stats_req(struct child *child, const struct msg_stats_req *m)
{
    struct buf text = {0};
    child->callbacks.on_stats(child->callbacks.ctx, &text);
    msg_pack_stats_reply(link_outbox(child->link),
                         &(struct msg_stats_reply){.req_id = m->req_id, .text = buf_span(&text)});
    buf_release(&text);
}

static void on_report_req(struct child *child, const struct msg_report_req *m)
{
    struct msg_report_reply report = {0};
    child->callbacks.on_report(child->callbacks.ctx, &report);
    report.req_id = m->req_id;
    msg_pack_report_reply(link_outbox(child->link), &report);
}

static char *copy_path(struct span path)
{
    char *copy = strndup((const char *)path.ptr, path.len);
    ASSERT(copy != NULL);
    return copy;
}

static void on_bye_timer(uv_timer_t *timer)
{
    (void)timer;
    _exit(EXIT_SUCCESS);
}
