/* The table of commands, and how one is started. */
#include "netd/command.h"

#include "netd/netd.h"
#include "proto/resp.h"

static bool must_wait(const struct client *client, enum command_class class);
static void fail_unknown(struct request *request, struct span name);

const struct command commands[] = {
#define COMMAND(name, handler, arity, class, flags, group, summary, syntax)                        \
    {name, handler, arity, class, flags, group, summary, syntax},
#include "netd/commands.def"
};
const unsigned command_count = sizeof commands / sizeof commands[0];

const struct command *command_find(struct span name)
{
    for (unsigned i = 0; i < command_count; i++)
        if (text_is(name, commands[i].name))
            return &commands[i];
    return NULL;
}

bool command_start(struct client *client, const struct resp_arg *arguments, uint32_t count)
{
    struct netd *netd = client->netd;
    bool named = arguments[0].type == RESP_STRING;
    const struct command *command = named ? command_find(arguments[0].value) : NULL;
    enum command_class class = command != NULL ? command->class : CLASS_LOCAL;
    bool permitted =
        client->authenticated || (command != NULL && (command->flags & COMMAND_NO_AUTH) != 0);
    if (!permitted)
        class = CLASS_LOCAL;
    if (must_wait(client, class))
        return false;
    struct request *request = request_new(netd, client, client->proto);
    request->command = command;
    request->class = class;
    if (class != CLASS_LOCAL)
        client->in_flight[class]++;
    netd->stats.commands++;
    client->commands++;
    client->last_command = command != NULL ? command->name : "unknown";
    if (!permitted) {
        request_fail(request, "NOAUTH", span_str("Authentication required."));
        return true;
    }
    if (command == NULL) {
        if (named)
            fail_unknown(request, arguments[0].value);
        else
            request_fail(request, "INVALIDARG", span_str("invalid type for command name"));
        return true;
    }
    buf_clear(&netd->error, 4096);
    struct args args = {.at = arguments + 1, .left = count - 1, .error = &netd->error};
    switch (command->handler(client, request, &args)) {
    case HANDLED_DONE:
        request_done(request);
        break;
    case HANDLED_LATER:
        break;
    case HANDLED_FAILED:
        request_fail(request, "INVALIDARG", buf_span(&netd->error));
        break;
    case HANDLED_TOO_BIG:
        request_fail(request, "MAXSIZE", buf_span(&netd->error));
        break;
    case HANDLED_STALL:
        netd->stats.commands--;
        client->commands--;
        request_withdraw(request);
        return false;
    }
    return true;
}

static bool must_wait(const struct client *client, enum command_class class)
{
    switch (class) {
    case CLASS_LOCAL:
        return false;
    case CLASS_APPEND:
        return client->in_flight[CLASS_READ] > 0 || client->in_flight[CLASS_BARRIER] > 0;
    case CLASS_READ:
        return client->in_flight[CLASS_APPEND] > 0 || client->in_flight[CLASS_BARRIER] > 0;
    case CLASS_BARRIER:
        return client->first != NULL;
    }
    return false;
}

static void fail_unknown(struct request *request, struct span name)
{
    char upper[128];
    size_t len = min_u64(name.len, sizeof upper);
    for (size_t i = 0; i < len; i++)
        upper[i] = (char)(name.ptr[i] >= 'a' && name.ptr[i] <= 'z' ? name.ptr[i] - 'a' + 'A'
                                                                   : name.ptr[i]);
    struct buf *error = &request->netd->error;
    buf_clear(error, 4096);
    buf_append(error, "unknown command '", 17);
    buf_append(error, upper, len);
    buf_append(error, "'", 1);
    request_fail(request, "INVALIDARG", buf_span(error));
}
