/* status, cluster status, restart, stop. */
#include "supervisor/operate.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "supervisor/client.h"
#include "supervisor/cluster_status.h"
#include "supervisor/status.h"

#define RESTART_MS_MAX 60000
#define POLL_MS        20

static int show(const struct options *options, const char *command,
                void (*print)(const json_t *, struct buf *));
static bool open_node(const struct options *options, struct config *ret_config,
                      struct client **ret_client);
static bool parse_target(const struct options *options, const char **ret_kind, unsigned *ret_index);
static bool wait_restarted(struct client *client, const char *kind, unsigned index,
                           json_int_t old_boot);

int operate_status(const struct options *options)
{
    return show(options, "status", status_print);
}

int operate_cluster(const struct options *options)
{
    if (options->words_count != 2 || strcmp(options->words[1], "status") != 0) {
        fprintf(stderr, "sierradb: expected `cluster status`\n");
        return 2;
    }
    return show(options, "cluster", cluster_status_print);
}

static int show(const struct options *options, const char *command,
                void (*print)(const json_t *, struct buf *))
{
    struct config config;
    struct client *client;
    if (!open_node(options, &config, &client))
        return EXIT_FAILURE;
    json_t *status = client_ask(client, json_pack("{s:s}", "command", command));
    if (status != NULL && options->json) {
        json_object_del(status, "ok");
        json_dumpf(status, stdout, JSON_INDENT(2));
        printf("\n");
    } else if (status != NULL) {
        struct buf table = {0};
        print(status, &table);
        fwrite(table.ptr, 1, table.len, stdout);
        buf_release(&table);
    }
    int result = status != NULL ? EXIT_SUCCESS : EXIT_FAILURE;
    json_decref(status);
    client_close(client);
    config_release(&config);
    return result;
}

int operate_restart(const struct options *options)
{
    struct config config;
    struct client *client;
    const char *kind;
    unsigned index;
    if (!parse_target(options, &kind, &index)) {
        fprintf(stderr, "sierradb: expected `restart bucket N` or `restart netd`\n");
        return 2;
    }
    if (!open_node(options, &config, &client))
        return EXIT_FAILURE;
    json_t *answer = client_ask(client, json_pack("{s:s, s:s, s:i}", "command", "restart", "kind",
                                                  kind, "index", (int)index));
    bool done = answer != NULL;
    if (done) {
        json_int_t old_boot = json_integer_value(json_object_get(answer, "old_boot"));
        done = wait_restarted(client, kind, index, old_boot);
    }
    json_decref(answer);
    client_close(client);
    config_release(&config);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}

int operate_stop(const struct options *options)
{
    struct config config;
    struct client *client;
    if (!open_node(options, &config, &client))
        return EXIT_FAILURE;
    json_t *answer = client_ask(client, json_pack("{s:s}", "command", "stop"));
    bool done = answer != NULL;
    if (done && !client_wait_end(client, 2 * config.supervisor.stop_timeout_ms + 5000)) {
        fprintf(stderr, "sierradb: the node still runs\n");
        done = false;
    }
    if (done)
        printf("stopped\n");
    json_decref(answer);
    client_close(client);
    config_release(&config);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}

static bool open_node(const struct options *options, struct config *ret_config,
                      struct client **ret_client)
{
    if (options_load_config(options, ret_config) == ERR_OK &&
        client_open(ret_config, ret_client) == ERR_OK)
        return true;
    config_release(ret_config);
    return false;
}

static bool parse_target(const struct options *options, const char **ret_kind, unsigned *ret_index)
{
    if (options->words_count == 2 && strcmp(options->words[1], "netd") == 0) {
        *ret_kind = "netd";
        *ret_index = 0;
        return true;
    }
    if (options->words_count != 3 || strcmp(options->words[1], "bucket") != 0)
        return false;
    char *end;
    unsigned long index = strtoul(options->words[2], &end, 10);
    *ret_kind = "bucket";
    *ret_index = (unsigned)index;
    return end != options->words[2] && *end == '\0' && index <= 65535;
}

static const json_t *find_process(const json_t *status, const char *kind, unsigned index)
{
    size_t i;
    const json_t *process;
    const json_t *processes = json_object_get(status, "processes");
    for (i = 0; i < json_array_size(processes); i++) {
        process = json_array_get(processes, i);
        const char *its_kind = json_string_value(json_object_get(process, "kind"));
        if (its_kind != NULL && strcmp(its_kind, kind) == 0 &&
            json_integer_value(json_object_get(process, "index")) == (json_int_t)index)
            return process;
    }
    return NULL;
}

static bool wait_restarted(struct client *client, const char *kind, unsigned index,
                           json_int_t old_boot)
{
    for (unsigned waited_ms = 0; waited_ms < RESTART_MS_MAX; waited_ms += POLL_MS) {
        json_t *status = client_ask(client, json_pack("{s:s}", "command", "status"));
        if (status == NULL)
            return false;
        const json_t *process = find_process(status, kind, index);
        const char *state = json_string_value(json_object_get(process, "state"));
        bool again = json_integer_value(json_object_get(process, "boot")) != old_boot;
        bool up = again && state != NULL && strcmp(state, "up") == 0;
        bool down = again && state != NULL && strcmp(state, "down") == 0;
        if (up)
            printf("%s is up again, pid %lld\n",
                   json_string_value(json_object_get(process, "name")),
                   (long long)json_integer_value(json_object_get(process, "pid")));
        if (down)
            fprintf(stderr, "sierradb: it doesn't start; see the log\n");
        json_decref(status);
        if (up || down)
            return up;
        usleep(POLL_MS * 1000);
    }
    fprintf(stderr, "sierradb: it isn't up after %d s; see `sierradb status` and the log\n",
            RESTART_MS_MAX / 1000);
    return false;
}
