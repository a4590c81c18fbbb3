/* What clients say about their connection: HELLO, AUTH, CLIENT, PING, ECHO, QUIT, RESET, SELECT. */
#include <stdlib.h>

#include "netd/command.h"
#include "netd/netd.h"

static bool take_message(struct args *args, struct span *ret_message);
static bool check_password(const struct netd *netd, struct span user, struct span password);
static enum handled fail(struct request *request, const char *code, const char *text);
static bool set_name(char *to, size_t size, struct span value);
static void hello_reply(struct client *client, struct request *request);
static enum handled client_setinfo(struct client *client, struct request *request,
                                   struct args *args);
static enum handled client_kill(struct client *client, struct request *request, struct args *args);
static enum handled client_list(struct client *client, struct request *request, struct args *args);
static enum handled client_info(struct client *client, struct request *request, struct args *args);
static void print_client(const struct client *client, struct buf *out);
static enum handled client_on_off(struct request *request, struct args *args);

enum handled cmd_ping(struct client *client, struct request *request, struct args *args)
{
    struct buf *out = request_out(request);
    struct span message;
    (void)client;
    if (args->left == 0) {
        resp_simple_str(out, "PONG");
        return HANDLED_DONE;
    }
    if (!take_message(args, &message))
        return HANDLED_FAILED;
    resp_bulk(out, message);
    return HANDLED_DONE;
}

enum handled cmd_echo(struct client *client, struct request *request, struct args *args)
{
    (void)client;
    struct span message;
    if (!take_message(args, &message))
        return HANDLED_FAILED;
    resp_bulk(request_out(request), message);
    return HANDLED_DONE;
}

enum handled cmd_quit(struct client *client, struct request *request, struct args *args)
{
    (void)args;
    client->no_more = true;
    request->close_after = true;
    resp_simple_str(request_out(request), "OK");
    return HANDLED_DONE;
}

enum handled cmd_reset(struct client *client, struct request *request, struct args *args)
{
    const struct config *config = client->netd->config;
    if (!args_end(args))
        return HANDLED_FAILED;
    client_end_subscriptions(client);
    client->authenticated = config->network.password[0] == '\0';
    client->name[0] = '\0';
    client->proto_fixed = config->network.default_protocol[0] != 'a';
    client_set_proto(client, config->network.default_protocol[0] == '2' ? 2 : 3);
    client_set_limits(client);
    resp_simple_str(request_out(request), "RESET");
    return HANDLED_DONE;
}

enum handled cmd_select(struct client *client, struct request *request, struct args *args)
{
    uint64_t index;
    (void)client;
    if (!args_u64(args, "number", &index) || !args_end(args))
        return HANDLED_FAILED;
    if (index != 0)
        return fail(request, "ERR", "DB index is out of range: expected 0, the only one");
    resp_simple_str(request_out(request), "OK");
    return HANDLED_DONE;
}

enum handled cmd_auth(struct client *client, struct request *request, struct args *args)
{
    struct span user = span_str("default"), password;
    if (args->left == 2 && !args_text(args, "user", &user))
        return HANDLED_FAILED;
    if (!args_text(args, "password", &password) || !args_end(args))
        return HANDLED_FAILED;
    if (client->netd->config->network.password[0] == '\0')
        return fail(
            request, "ERR",
            "AUTH called without a password configured (network.password): no login is needed");
    if (!check_password(client->netd, user, password))
        return fail(request, "WRONGPASS", "invalid username-password pair or user is disabled.");
    client->authenticated = true;
    client_set_limits(client);
    resp_simple_str(request_out(request), "OK");
    return HANDLED_DONE;
}

enum handled cmd_hello(struct client *client, struct request *request, struct args *args)
{
    uint64_t proto = (uint64_t)client->proto;
    bool authenticated = client->authenticated;
    struct span name = {0};
    if (args->left > 0) {
        if (!args_u64(args, "number", &proto))
            return HANDLED_FAILED;
        if (proto != 2 && proto != 3)
            return fail(request, "NOPROTO", "unsupported protocol version: expected 2 or 3");
    }
    while (args->left > 0) {
        struct span user, password;
        if (args_take_word(args, "AUTH")) {
            if (!args_text(args, "user", &user) || !args_text(args, "password", &password))
                return HANDLED_FAILED;
            if (client->netd->config->network.password[0] != '\0' &&
                !check_password(client->netd, user, password))
                return fail(request, "WRONGPASS",
                            "invalid username-password pair or user is disabled.");
            authenticated = true;
        } else if (args_take_word(args, "SETNAME")) {
            if (!args_text(args, "name", &name))
                return HANDLED_FAILED;
        } else {
            return args_unexpected(args, "AUTH, SETNAME or end of input"), HANDLED_FAILED;
        }
    }
    if (!authenticated)
        return fail(request, "NOAUTH",
                    "HELLO must be called with the client already authenticated, otherwise the "
                    "HELLO <proto> AUTH "
                    "<user> <pass> option can be used to authenticate the client and select the "
                    "RESP protocol "
                    "version at the same time");
    if (name.ptr != NULL && !set_name(client->name, sizeof client->name, name))
        return fail(request, "ERR",
                    "Client names cannot contain spaces, newlines or special characters.");
    client->authenticated = true;
    client->proto_fixed = true;
    client_set_limits(client);
    client_set_proto(client, (int)proto);
    hello_reply(client, request);
    return HANDLED_DONE;
}

enum handled cmd_client(struct client *client, struct request *request, struct args *args)
{
    struct buf *out = request_out(request);
    if (args_take_word(args, "SETINFO"))
        return client_setinfo(client, request, args);
    if (args_take_word(args, "KILL"))
        return client_kill(client, request, args);
    if (args_take_word(args, "LIST"))
        return client_list(client, request, args);
    if (args_take_word(args, "INFO"))
        return client_info(client, request, args);
    if (args_take_word(args, "NO-EVICT") || args_take_word(args, "NO-TOUCH"))
        return client_on_off(request, args);
    if (args_take_word(args, "REPLY"))
        return args_take_word(args, "ON") && args->left == 0
                   ? (resp_simple_str(out, "OK"), HANDLED_DONE)
                   : (args_unexpected(args, "ON"), HANDLED_FAILED);
    if (args_take_word(args, "SETNAME")) {
        struct span name;
        if (!args_text(args, "name", &name) || !args_end(args))
            return HANDLED_FAILED;
        if (!set_name(client->name, sizeof client->name, name))
            return fail(request, "ERR",
                        "Client names cannot contain spaces, newlines or special characters.");
        resp_simple_str(out, "OK");
    } else if (args_take_word(args, "GETNAME")) {
        if (!args_end(args))
            return HANDLED_FAILED;
        if (client->name[0] == '\0')
            resp_null(out, request->proto);
        else
            resp_bulk_str(out, client->name);
    } else if (args_take_word(args, "ID")) {
        if (!args_end(args))
            return HANDLED_FAILED;
        resp_number(out, (int64_t)client->id);
    } else {
        return args_unexpected(
                   args,
                   "ID, INFO, LIST, GETNAME, SETNAME, SETINFO, KILL, NO-EVICT, NO-TOUCH or REPLY"),
               HANDLED_FAILED;
    }
    return HANDLED_DONE;
}

static bool take_message(struct args *args, struct span *ret_message)
{
    if (args->left == 0 || args->at->type == RESP_OTHER || args->at->type == RESP_NULL)
        return args_unexpected(args, "message");
    *ret_message = args->at->value;
    args->at++;
    args->left--;
    return args_end(args);
}

/* Takes the same time wherever the first difference stands. */
static bool check_password(const struct netd *netd, struct span user, struct span password)
{
    const char *expected = netd->config->network.password;
    size_t len = strlen(expected);
    unsigned difference = (unsigned)(len != password.len);
    for (size_t i = 0; i < password.len; i++)
        difference |= (unsigned)(password.ptr[i] ^ (uint8_t)expected[len == 0 ? 0 : i % len]);
    return difference == 0 && len > 0 && span_equal(user, span_str("default"));
}

static enum handled fail(struct request *request, const char *code, const char *text)
{
    request->netd->stats.errors++;
    resp_error(request_out(request), code, span_str(text));
    return HANDLED_DONE;
}

/* False where the value could break a line of CLIENT LIST. Cut at the size of its place. */
static bool set_name(char *to, size_t size, struct span value)
{
    for (size_t i = 0; i < value.len; i++)
        if (value.ptr[i] < '!' || value.ptr[i] > '~')
            return false;
    snprintf(to, size, "%.*s", (int)value.len, value.len > 0 ? (const char *)value.ptr : "");
    return true;
}

static void hello_reply(struct client *client, struct request *request)
{
    struct netd *netd = client->netd;
    struct buf *out = request_out(request);
    int proto = request->proto = client->proto; /* the answer is in the protocol chosen */
    resp_map(out, proto, 9);
    resp_bulk_str(out, "server");
    resp_bulk_str(out, "sierradb");
    resp_bulk_str(out, "version");
    resp_bulk_str(out, SIERRADB_VERSION);
    resp_bulk_str(out, "proto");
    resp_number(out, proto);
    resp_bulk_str(out, "id");
    resp_number(out, (int64_t)client->id);
    resp_bulk_str(out, "mode");
    resp_bulk_str(out, netd->config->node.count > 1 ? "cluster" : "standalone");
    resp_bulk_str(out, "role");
    resp_bulk_str(out, "master");
    resp_bulk_str(out, "modules");
    resp_array(out, 0);
    resp_bulk_str(out, "peer_id");
    resp_bulk_str(out, netd->node_id);
    resp_bulk_str(out, "num_partitions");
    resp_number(out, netd->config->partition.count);
}

/* A library that tells its name would have said HELLO 3 had it wanted RESP3: it reads RESP2. */
static enum handled client_setinfo(struct client *client, struct request *request,
                                   struct args *args)
{
    struct span value;
    bool is_name = args_take_word(args, "LIB-NAME");
    if (!is_name && !args_take_word(args, "LIB-VER"))
        return args_unexpected(args, "LIB-NAME or LIB-VER"), HANDLED_FAILED;
    if (!args_text(args, "value", &value) || !args_end(args))
        return HANDLED_FAILED;
    if (!set_name(is_name ? client->lib_name : client->lib_version,
                  is_name ? sizeof client->lib_name : sizeof client->lib_version, value))
        return fail(request, "ERR",
                    "CLIENT SETINFO values cannot contain spaces, newlines or special characters.");
    if (is_name && !client->proto_fixed) {
        client->proto_fixed = true;
        client_set_proto(client, strncmp(client->lib_name, "redis-rs", 8) == 0 ? 3 : 2);
    }
    resp_simple_str(request_out(request), "OK");
    return HANDLED_DONE;
}

/* Which clients CLIENT KILL and CLIENT LIST mean. */
struct client_filter {
    uint64_t id;            /* 0: any */
    struct span address;    /* ptr NULL: any */
    bool none;              /* a type or user that no client here has */
    bool subscribed, plain; /* TYPE pubsub, TYPE normal */
};

static bool filter_matches(const struct client_filter *filter, const struct client *client)
{
    if (client->closing || filter->none)
        return false;
    if ((filter->subscribed && client->subscription_count == 0) ||
        (filter->plain && client->subscription_count > 0))
        return false;
    return (filter->id == 0 || client->id == filter->id) &&
           (filter->address.ptr == NULL || span_equal(filter->address, span_str(client->address)));
}

/* One filter, if the next argument is one: *ret_taken. False: its value is wrong. */
static bool take_filter(struct args *args, struct client_filter *filter, bool *ret_taken)
{
    struct span user;
    *ret_taken = true;
    if (args_take_word(args, "ID"))
        return args_u64(args, "number", &filter->id);
    if (args_take_word(args, "ADDR"))
        return args_text(args, "ip:port", &filter->address);
    if (args_take_word(args, "USER")) {
        bool ok = args_text(args, "user", &user);
        filter->none |= ok && !span_equal(user, span_str("default"));
        return ok;
    }
    *ret_taken = args_take_word(args, "TYPE");
    if (!*ret_taken)
        return true;
    filter->plain = args_take_word(args, "NORMAL");
    filter->subscribed = !filter->plain && args_take_word(args, "PUBSUB");
    if (filter->plain || filter->subscribed)
        return true;
    filter->none = args_take_word(args, "MASTER") || args_take_word(args, "REPLICA") ||
                   args_take_word(args, "SLAVE");
    return filter->none || args_unexpected(args, "normal, pubsub, master or replica");
}

/* CLIENT KILL ip:port, or filters; the latter form answers how many were closed. */
static enum handled client_kill(struct client *client, struct request *request, struct args *args)
{
    struct client_filter filter = {0};
    bool skip_me = true, old_form = args->left == 1;
    const char *expected = "ip:port, ID, ADDR, TYPE, USER or SKIPME";
    if (args->left == 0)
        return args_unexpected(args, expected), HANDLED_FAILED;
    if (old_form && !args_text(args, "ip:port", &filter.address))
        return HANDLED_FAILED;
    while (args->left > 0) {
        bool taken;
        if (!take_filter(args, &filter, &taken))
            return HANDLED_FAILED;
        if (taken)
            continue;
        if (!args_take_word(args, "SKIPME"))
            return args_unexpected(args, expected), HANDLED_FAILED;
        skip_me = args_take_word(args, "YES");
        if (!skip_me && !args_take_word(args, "NO"))
            return args_unexpected(args, "yes or no"), HANDLED_FAILED;
    }
    uint64_t killed = 0;
    for (struct client *other = client->netd->clients; other != NULL; other = other->next) {
        if (!filter_matches(&filter, other) || (other == client && skip_me && !old_form))
            continue;
        killed++;
        if (other == client) {
            client->no_more = true;
            request->close_after = true;
        } else {
            client_close(other);
        }
    }
    if (!old_form)
        resp_number(request_out(request), (int64_t)killed);
    else if (killed == 0)
        return fail(request, "ERR", "No such client");
    else
        resp_simple_str(request_out(request), "OK");
    return HANDLED_DONE;
}

static enum handled client_list(struct client *client, struct request *request, struct args *args)
{
    struct client_filter filter = {0};
    while (args->left > 0) {
        bool taken;
        if (!take_filter(args, &filter, &taken))
            return HANDLED_FAILED;
        if (!taken)
            return args_unexpected(args, "ID, ADDR, TYPE, USER or end of input"), HANDLED_FAILED;
    }
    struct buf text = {0};
    for (struct client *other = client->netd->clients; other != NULL; other = other->next) {
        if (filter_matches(&filter, other))
            print_client(other, &text);
    }
    resp_bulk(request_out(request), buf_span(&text));
    buf_release(&text);
    return HANDLED_DONE;
}

static enum handled client_info(struct client *client, struct request *request, struct args *args)
{
    struct buf text = {0};
    if (!args_end(args))
        return HANDLED_FAILED;
    print_client(client, &text);
    resp_bulk(request_out(request), buf_span(&text));
    buf_release(&text);
    return HANDLED_DONE;
}

static void print_client(const struct client *client, struct buf *out)
{
    uint64_t now = netd_now_ms(client->netd);
    buf_printf(out,
               "id=%lu addr=%s fd=%d name=%s age=%lu idle=%lu flags=N db=0 sub=%u psub=0 multi=-1 "
               "pending=%u omem=%zu "
               "cmd=%s user=default lib-name=%s lib-ver=%s resp=%d\n",
               client->id, client->address, client->fd, client->name,
               (now - client->since_ms) / 1000, (now - client->last_ms) / 1000,
               client->subscription_count, client->pending, client->out.len - client->out_sent,
               client->last_command, client->lib_name, client->lib_version, client->proto);
}

static enum handled client_on_off(struct request *request, struct args *args)
{
    if (!args_take_word(args, "ON") && !args_take_word(args, "OFF"))
        return args_unexpected(args, "on or off"), HANDLED_FAILED;
    if (!args_end(args))
        return HANDLED_FAILED;
    resp_simple_str(request_out(request), "OK");
    return HANDLED_DONE;
}
