/* sierradb's command line, common to the node and the operator's commands. */
#pragma once

#include "common/config.h"

#define OPTION_SETS_MAX 32
#define OPTION_WORDS_MAX 8

struct options {
    const char *config_file;                    /* NULL: none */
    /* Configuration keys given on the command line. */
    struct { const char *key, *value, *option; } sets[OPTION_SETS_MAX];
    unsigned sets_count;
    /* what isn't an option: command and its arguments */
    const char *words[OPTION_WORDS_MAX];
    unsigned words_count;
    bool json, check_config, help, help_config, version;
};

/* False: a message went to stderr. Pointers into argv. */
bool options_parse(int argc, char **argv, struct options *ret_options);
/* Defaults, file, environment and command line, checked. On an error its message goes to stderr. */
enum err options_load_config(const struct options *options, struct config *ret_config) MUST_CHECK;
