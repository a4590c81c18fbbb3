/* Command line to options, options to configuration. */
#include "supervisor/options.h"

#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "common/assert.h"

/* Options that are configuration keys; `letter` 0: long form only. */
static const struct {
    const char *name;
    char letter;
    const char *key;
} key_options[] = {
    {"dir", 'd', "dir"},
    {"client-address", 0, "network.client_address"},
    {"cluster-address", 0, "network.cluster_address"},
    {"node-count", 'n', "node.count"},
    {"node-index", 'i', "node.index"},
    {"peers", 0, "network.peers"},
    {"cluster-name", 0, "cluster.name"},
    {"cluster-secret-file", 0, "cluster.secret_file"}, /* the secret itself would be seen in ps */
    {"mdns", 0, "network.mdns"},
    {"log", 'l', "log_level"},
};

#define KEY_OPTIONS ((int)(sizeof key_options / sizeof *key_options))

enum {
    OPTION_KEY = 256,
    OPTION_CONFIG = 512,
    OPTION_JSON,
    OPTION_CHECK,
    OPTION_HELP,
    OPTION_HELP_CONFIG,
    OPTION_VERSION
};

static bool take_option(struct options *options, int option, const char *value);
static bool take_key(struct options *options, int index, const char *value);

bool options_parse(int argc, char **argv, struct options *ret_options)
{
    struct option table[KEY_OPTIONS + 7] = {
        {"config", required_argument, NULL, OPTION_CONFIG},
        {"json", no_argument, NULL, OPTION_JSON},
        {"check-config", no_argument, NULL, OPTION_CHECK},
        {"help", no_argument, NULL, OPTION_HELP},
        {"help-config", no_argument, NULL, OPTION_HELP_CONFIG},
        {"version", no_argument, NULL, OPTION_VERSION},
    };
    for (int i = 0; i < KEY_OPTIONS; i++)
        table[6 + i] =
            (struct option){key_options[i].name, required_argument, NULL, OPTION_KEY + i};
    *ret_options = (struct options){0};
    optind = 1;
    int option;
    while ((option = getopt_long(argc, argv, "c:d:n:i:l:hV", table, NULL)) != -1) {
        if (!take_option(ret_options, option, optarg))
            return false;
    }
    for (; optind < argc; optind++) {
        if (ret_options->words_count == OPTION_WORDS_MAX) {
            fprintf(stderr, "sierradb: too many arguments\n");
            return false;
        }
        ret_options->words[ret_options->words_count++] = argv[optind];
    }
    return true;
}

static bool take_option(struct options *options, int option, const char *value)
{
    switch (option) {
    case 'c':
    case OPTION_CONFIG:
        if (options->config_file != NULL) {
            fprintf(stderr, "sierradb: --config is given twice\n");
            return false;
        }
        options->config_file = value;
        return true;
    case 'h':
    case OPTION_HELP:
        options->help = true;
        return true;
    case 'V':
    case OPTION_VERSION:
        options->version = true;
        return true;
    case OPTION_JSON:
        options->json = true;
        return true;
    case OPTION_CHECK:
        options->check_config = true;
        return true;
    case OPTION_HELP_CONFIG:
        options->help_config = true;
        return true;
    default:
        break;
    }
    for (int i = 0; i < KEY_OPTIONS; i++) {
        if (option == OPTION_KEY + i || (option == key_options[i].letter && option != 0))
            return take_key(options, i, value);
    }
    fprintf(stderr, "Try `sierradb --help`.\n"); /* getopt said what is wrong */
    return false;
}

static bool take_key(struct options *options, int index, const char *value)
{
    const char *key = key_options[index].key;
    for (unsigned i = 0; i < options->sets_count; i++) {
        if (strcmp(options->sets[i].key, key) == 0) {
            fprintf(stderr, "sierradb: --%s is given twice\n", key_options[index].name);
            return false;
        }
    }
    ASSERT(options->sets_count < OPTION_SETS_MAX);
    options->sets[options->sets_count].key = key;
    options->sets[options->sets_count].value = value;
    options->sets[options->sets_count].option = key_options[index].name;
    options->sets_count++;
    return true;
}

enum err options_load_config(const struct options *options, struct config *ret_config)
{
    struct buf error = {0};
    config_init(ret_config);
    enum err err = ERR_OK;
    if (options->config_file != NULL)
        err = config_load_file(ret_config, options->config_file, &error);
    if (err == ERR_OK)
        err = config_load_env(ret_config, environ, &error);
    for (unsigned i = 0; err == ERR_OK && i < options->sets_count; i++) {
        char source[48];
        snprintf(source, sizeof source, "--%s", options->sets[i].option);
        err = config_set(ret_config, options->sets[i].key, options->sets[i].value, source, &error);
    }
    if (err == ERR_OK)
        err = config_finish(ret_config, &error);
    if (err != ERR_OK)
        fprintf(stderr, "sierradb: configuration: %.*s", (int)error.len, (char *)error.ptr);
    buf_release(&error);
    return err;
}
