/* Commands as data: one row of commands.def each; COMMAND, COMMAND DOCS and HELP come from it too.
 */
#pragma once

#include "netd/args.h"
#include "netd/client.h"

enum handled {
    HANDLED_DONE,    /* the reply is written (request_done is the caller's) */
    HANDLED_LATER,   /* an answer from a bucket is awaited */
    HANDLED_FAILED,  /* the error's text is in args->error, its code is INVALIDARG */
    HANDLED_TOO_BIG, /* the same with MAXSIZE */
    HANDLED_STALL,   /* can't be started now: nothing happened, try again later */
};

typedef enum handled command_handler(struct client *client, struct request *request,
                                     struct args *args);

enum command_flags {
    COMMAND_WRITE = 1,
    COMMAND_READ = 2,
    COMMAND_PUBSUB = 4,
    COMMAND_ADMIN = 8,
    COMMAND_NO_AUTH = 16, /* before AUTH too */
};

struct command {
    const char *name;
    command_handler *handler;
    int arity; /* with the name; negative: at least */
    enum command_class class;
    unsigned flags;
    const char *group, *summary, *syntax;
};

extern const struct command commands[];
extern const unsigned command_count;

/* NULL where there is none. */
const struct command *command_find(struct span name);
/* Starts a request: finds the command, checks permission and order, calls the handler. False: it
 * has to wait. */
bool command_start(struct client *client, const struct resp_arg *arguments, uint32_t count);

#define COMMAND(name, handler, arity, class, flags, group, summary, syntax) command_handler handler;
#include "netd/commands.def"

/* Called by client.c. */
void scan_continue(struct request *request); /* the scan is at the head of its client's queue now */
void request_cancel_parts(struct request *request); /* its client went away */
/* hub.h: tail_ops.created. */
void subscribe_created(void *ctx, struct subscription *subscription, enum err err);
