/* sierradb: starts a node, or carries out one of the operator's commands. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "supervisor/dump.h"
#include "supervisor/help.h"
#include "supervisor/node.h"
#include "supervisor/operate.h"
#include "supervisor/options.h"
#include "supervisor/verify.h"

static int run_command(const struct options *options);
static int check_config(const struct options *options);
static int run_node(const struct options *options);

int main(int argc, char **argv)
{
    /* What a careless parent left open must not reach the children. */
    close_range(3, ~0u, 0);
    /* These two work on files alone and have options of their own. */
    if (argc > 1 && strcmp(argv[1], "verify") == 0)
        return verify_main(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "dump") == 0)
        return dump_main(argc - 1, argv + 1);
    struct options options;
    if (!options_parse(argc, argv, &options))
        return 2;
    if (options.help) {
        help_print(options.words_count > 0 ? options.words[0] : NULL);
    } else if (options.version) {
        printf("sierradb %s\n", SIERRADB_VERSION);
    } else if (options.help_config) {
        struct buf text = {0};
        config_print_help(&text);
        fwrite(text.ptr, 1, text.len, stdout);
        buf_release(&text);
    } else if (options.words_count > 0) {
        return run_command(&options);
    } else if (options.check_config) {
        return check_config(&options);
    } else {
        return run_node(&options);
    }
    return EXIT_SUCCESS;
}

static int run_command(const struct options *options)
{
    const char *command = options->words[0];
    if (strcmp(command, "restart") == 0)
        return operate_restart(options);
    if (strcmp(command, "cluster") == 0)
        return operate_cluster(options);
    if (strcmp(command, "verify") == 0 || strcmp(command, "dump") == 0) {
        fprintf(stderr, "sierradb: the command comes first: sierradb %s ...\n", command);
        return 2;
    }
    if (options->words_count > 1) {
        fprintf(stderr, "sierradb: unexpected argument '%s'; see `sierradb --help`\n",
                options->words[1]);
        return 2;
    }
    if (strcmp(command, "status") == 0)
        return operate_status(options);
    if (strcmp(command, "stop") == 0)
        return operate_stop(options);
    help_print(command); /* says that it is unknown */
    return 2;
}

static int check_config(const struct options *options)
{
    struct config config;
    struct buf text = {0};
    if (options_load_config(options, &config) != ERR_OK) {
        config_release(&config);
        return EXIT_FAILURE;
    }
    config_print_shown(&config, &text);
    printf("# The configuration is valid. In full:\n%.*s", (int)text.len, (char *)text.ptr);
    buf_release(&text);
    config_release(&config);
    return EXIT_SUCCESS;
}

static int run_node(const struct options *options)
{
    struct config config;
    if (options_load_config(options, &config) == ERR_OK)
        node_run(&config);
    config_release(&config);
    return EXIT_FAILURE;
}
