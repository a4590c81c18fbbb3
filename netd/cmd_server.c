/* COMMAND, HELP, CONFIG GET, TIME. INFO and DBSIZE: cmd_info.c. */
#include <fnmatch.h>
#include <stdlib.h>
#include <time.h>

#include "netd/command.h"
#include "netd/netd.h"

static void write_entry(struct buf *out, int proto, const struct command *command);
static void write_docs(struct buf *out, int proto, const struct command *command);
static const char *lower_name(const struct command *command, char text[static 32]);
static enum handled command_docs(struct request *request, struct args *args);
static enum handled command_info(struct request *request, struct args *args);
static unsigned collect_settings(const struct config *config, struct args *args, struct buf *out);
static bool setting_matches(struct args *args, const char *name);

enum handled cmd_command(struct client *client, struct request *request, struct args *args)
{
    struct buf *out = request_out(request);
    (void)client;
    if (args_take_word(args, "DOCS"))
        return command_docs(request, args);
    if (args_take_word(args, "INFO"))
        return command_info(request, args);
    if (args_take_word(args, "COUNT")) {
        if (!args_end(args))
            return HANDLED_FAILED;
        resp_number(out, command_count);
    } else if (args_take_word(args, "LIST")) {
        char name[32];
        if (!args_end(args))
            return HANDLED_FAILED;
        resp_array(out, command_count);
        for (unsigned i = 0; i < command_count; i++)
            resp_bulk_str(out, lower_name(&commands[i], name));
    } else if (args->left == 0) {
        return command_info(request, args);
    } else {
        return args_unexpected(args, "COUNT, LIST, INFO, DOCS or end of input"), HANDLED_FAILED;
    }
    return HANDLED_DONE;
}

enum handled cmd_help(struct client *client, struct request *request, struct args *args)
{
    struct buf *out = request_out(request), line = {0};
    const struct command *only = NULL;
    (void)client;
    if (args->left > 0 && (only = command_find(args->at->value)) == NULL)
        return args_unexpected(args, "name of a command"), HANDLED_FAILED;
    resp_array(out, only != NULL ? 1 : command_count);
    for (unsigned i = 0; i < command_count; i++) {
        const struct command *command = &commands[i];
        if (only != NULL && only != command)
            continue;
        line.len = 0;
        buf_printf(&line, "%s%s%s - %s", command->name, command->syntax[0] != '\0' ? " " : "",
                   command->syntax, command->summary);
        resp_bulk(out, buf_span(&line));
    }
    buf_release(&line);
    return HANDLED_DONE;
}

enum handled cmd_time(struct client *client, struct request *request, struct args *args)
{
    struct timespec now;
    char text[32];
    (void)client;
    if (!args_end(args))
        return HANDLED_FAILED;
    struct buf *out = request_out(request);
    clock_gettime(CLOCK_REALTIME, &now);
    resp_array(out, 2);
    snprintf(text, sizeof text, "%ld", (long)now.tv_sec);
    resp_bulk_str(out, text);
    snprintf(text, sizeof text, "%ld", (long)now.tv_nsec / 1000);
    resp_bulk_str(out, text);
    return HANDLED_DONE;
}

enum handled cmd_config(struct client *client, struct request *request, struct args *args)
{
    struct buf found = {0};
    if (!args_take_word(args, "GET"))
        return args_unexpected(args,
                               "GET (configuration is changed in the file, and with a restart)"),
               HANDLED_FAILED;
    if (args->left == 0)
        return args_unexpected(args, "pattern"), HANDLED_FAILED;
    unsigned count = collect_settings(client->netd->config, args, &found);
    /* Who said no HELLO expects Redis's array: redis-benchmark asks before anything else. */
    resp_map(request_out(request), client->proto_fixed ? request->proto : 2, count);
    buf_append_span(request_out(request), buf_span(&found));
    buf_release(&found);
    return HANDLED_DONE;
}

static enum handled command_info(struct request *request, struct args *args)
{
    struct buf *out = request_out(request);
    if (args->left == 0) {
        resp_array(out, command_count);
        for (unsigned i = 0; i < command_count; i++)
            write_entry(out, request->proto, &commands[i]);
        return HANDLED_DONE;
    }
    resp_array(out, args->left);
    for (uint32_t i = 0; i < args->left; i++) {
        const struct command *command = command_find(args->at[i].value);
        if (command == NULL)
            resp_null(out, request->proto);
        else
            write_entry(out, request->proto, command);
    }
    return HANDLED_DONE;
}

static enum handled command_docs(struct request *request, struct args *args)
{
    struct buf *out = request_out(request);
    unsigned found = 0;
    for (uint32_t i = 0; i < args->left; i++)
        found += command_find(args->at[i].value) != NULL;
    resp_map(out, request->proto, args->left == 0 ? command_count : found);
    for (unsigned i = 0; args->left == 0 && i < command_count; i++)
        write_docs(out, request->proto, &commands[i]);
    for (uint32_t i = 0; i < args->left; i++) {
        const struct command *command = command_find(args->at[i].value);
        if (command != NULL)
            write_docs(out, request->proto, command);
    }
    return HANDLED_DONE;
}

/* Name, arity, flags, first, last and step of keys (none in Redis's sense), ACL categories, tips,
 * key specifications, subcommands. */
static void write_entry(struct buf *out, int proto, const struct command *command)
{
    static const struct {
        unsigned flag;
        const char *name;
    } names[] = {
        {COMMAND_WRITE, "write"}, {COMMAND_READ, "readonly"},   {COMMAND_PUBSUB, "pubsub"},
        {COMMAND_ADMIN, "admin"}, {COMMAND_NO_AUTH, "no_auth"},
    };
    char name[32];
    (void)proto;
    resp_array(out, 10);
    resp_bulk_str(out, lower_name(command, name));
    resp_number(out, command->arity);
    resp_array(out, (uint64_t)__builtin_popcount(command->flags));
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if ((command->flags & names[i].flag) != 0)
            resp_simple_str(out, names[i].name);
    for (unsigned i = 0; i < 3; i++)
        resp_number(out, 0);
    for (unsigned i = 0; i < 4; i++)
        resp_array(out, 0);
}

static void write_docs(struct buf *out, int proto, const struct command *command)
{
    char name[32];
    bool has_arguments = command->syntax[0] != '\0';
    resp_bulk_str(out, lower_name(command, name));
    resp_map(out, proto, has_arguments ? 4 : 3);
    resp_bulk_str(out, "summary");
    resp_bulk_str(out, command->summary);
    resp_bulk_str(out, "since");
    resp_bulk_str(out, "0.1.0");
    resp_bulk_str(out, "group");
    resp_bulk_str(out, command->group);
    if (!has_arguments)
        return;
    /* One argument that is the whole syntax: redis-cli shows it as its hint. */
    resp_bulk_str(out, "arguments");
    resp_array(out, 1);
    resp_map(out, proto, 2);
    resp_bulk_str(out, "name");
    resp_bulk_str(out, command->syntax);
    resp_bulk_str(out, "type");
    resp_bulk_str(out, "string");
}

static const char *lower_name(const struct command *command, char text[static 32])
{
    size_t i = 0;
    for (; command->name[i] != '\0' && i < 31; i++)
        text[i] = (char)(command->name[i] + ('a' - 'A'));
    text[i] = '\0';
    return text;
}

/* Walks the configuration as printed: "key: value" lines, those of a section indented under it. Two
 * keys of Redis's that say how durable we are come on top: redis-benchmark asks for them. */
static unsigned collect_settings(const struct config *config, struct args *args, struct buf *out)
{
    struct buf text = {0};
    char section[64] = "", name[160];
    unsigned count = 0;
    static const char *const fixed[][2] = {
        {"save", ""}, {"appendonly", "yes"}, {"appendfsync", "always"}};
    for (unsigned i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (setting_matches(args, fixed[i][0])) {
            resp_bulk_str(out, fixed[i][0]);
            resp_bulk_str(out, fixed[i][1]);
            count++;
        }
    config_print_shown(config, &text);
    buf_append(&text, "", 1);
    char *rest = NULL;
    for (char *line = strtok_r((char *)text.ptr, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        bool indented = line[0] == ' ';
        char *key = line + strspn(line, " "), *colon = strchr(key, ':');
        if (colon == NULL || key[0] == '#')
            continue;
        *colon = '\0';
        char *value = colon + 1 + strspn(colon + 1, " ");
        if (!indented && *value == '\0') {
            snprintf(section, sizeof section, "%s.", key);
            continue;
        }
        snprintf(name, sizeof name, "%s%s", indented ? section : "", key);
        if (!setting_matches(args, name))
            continue;
        size_t len = strlen(value);
        if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
            value[len - 1] = '\0';
            value++;
        }
        resp_bulk_str(out, name);
        resp_bulk_str(out, value);
        count++;
    }
    buf_release(&text);
    return count;
}

static bool setting_matches(struct args *args, const char *name)
{
    char pattern[256];
    for (uint32_t i = 0; i < args->left; i++) {
        struct span value = args->at[i].value;
        if (value.len >= sizeof pattern)
            continue;
        memcpy(pattern, value.ptr, value.len);
        pattern[value.len] = '\0';
        if (fnmatch(pattern, name, FNM_CASEFOLD) == 0)
            return true;
    }
    return false;
}
