/* Configuration keys: their table, what values they take, defaults, relations between them. The
 * file's syntax is config_file.c's. */
#include "common/config.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/config_keys.h"
#include "common/limits.h"

const struct config_key config_keys[] = {
#define KEY(section, name, type, default_text, min, max, doc)                                      \
    {#section, #name, CONFIG_##type, default_text,                                                 \
     min,      max,   doc,           offsetof(struct config, section.name)},
#define TOP(name, type, default_text, min, max, doc)                                               \
    {"", #name, CONFIG_##type, default_text, min, max, doc, offsetof(struct config, name)},
#include "common/config.def"
};

#define KEY_COUNT (sizeof config_keys / sizeof *config_keys)
const unsigned config_key_count = KEY_COUNT;

struct override {
    unsigned node;
    const struct config_key *key;
    char *value, *where;
};

struct config_memory {
    enum config_origin origin[KEY_COUNT];
    char *where[KEY_COUNT]; /* NULL: default */
    struct override *overrides;
    size_t overrides_count;
    unsigned node_entries; /* in the file's nodes */
};

#define ENV_PREFIX "SIERRADB_"

static const struct config_key *find_env_key(const char *name, size_t len);
static bool is_service_link(const char *name, size_t len);
static void resolve_node_count(struct config *config);
static enum err apply_overrides(struct config *config, struct buf *error);
static void make_absolute(char **path);
static void print_expected(const struct config_key *key, struct buf *out);

static void *field_of(struct config *config, const struct config_key *key)
{
    return (char *)config + key->offset;
}

static char *copy_text(const char *text)
{
    char *copy = strdup(text);
    ASSERT(copy != NULL);
    return copy;
}

void config_init(struct config *config)
{
    *config = (struct config){0};
    config->memory = calloc(1, sizeof *config->memory);
    ASSERT(config->memory != NULL);
    struct buf error = {0};
    for (size_t i = 0; i < KEY_COUNT; i++) {
        enum err err = config_assign(config, &config_keys[i], config_keys[i].default_text,
                                     ORIGIN_DEFAULT, "default", &error);
        ASSERT(err == ERR_OK);
    }
    buf_release(&error);
}

void config_release(struct config *config)
{
    for (size_t i = 0; i < KEY_COUNT && config->memory != NULL; i++) {
        void *field = field_of(config, &config_keys[i]);
        switch (config_keys[i].type) {
        case CONFIG_text:
        case CONFIG_path:
        case CONFIG_address:
        case CONFIG_protocol:
        case CONFIG_level:
            free(*(char **)field);
            break;
        case CONFIG_secret:
            if (*(char **)field != NULL)
                explicit_bzero(*(char **)field, strlen(*(char **)field));
            free(*(char **)field);
            break;
        case CONFIG_peers:
            config_release_peers(field);
            break;
        case CONFIG_ids:
        case CONFIG_boolean:
        case CONFIG_number:
        case CONFIG_count:
        case CONFIG_bytes:
            break;
        }
    }
    free(config->bucket.ids);
    free(config->partition.ids);
    for (size_t i = 0; config->memory != NULL && i < config->memory->overrides_count; i++) {
        free(config->memory->overrides[i].value);
        free(config->memory->overrides[i].where);
    }
    for (size_t i = 0; config->memory != NULL && i < KEY_COUNT; i++)
        free(config->memory->where[i]);
    if (config->memory != NULL)
        free(config->memory->overrides);
    free(config->memory);
    *config = (struct config){0};
}

enum err config_load_env(struct config *config, char *const envp[], struct buf *error)
{
    for (char *const *var = envp; *var != NULL; var++) {
        if (strncmp(*var, ENV_PREFIX, strlen(ENV_PREFIX)) != 0)
            continue;
        const char *value = strchr(*var, '=');
        if (value == NULL)
            continue;
        const char *name = *var + strlen(ENV_PREFIX);
        size_t name_len = (size_t)(value - name);
        if (is_service_link(name, name_len))
            continue;
        struct buf where = {0};
        buf_printf(&where, "environment variable %.*s", (int)(value - *var), *var);
        buf_append_zeros(&where, 1);
        const struct config_key *key = find_env_key(name, name_len);
        enum err err = ERR_CONFIG;
        if (key == NULL)
            buf_printf(error, "%s: unknown key; `sierradb --help-config` lists all keys\n",
                       (char *)where.ptr);
        else
            err = config_assign(config, key, value + 1, ORIGIN_SET, (char *)where.ptr, error);
        buf_release(&where);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

enum err config_set(struct config *config, const char *key, const char *value, const char *source,
                    struct buf *error)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        struct buf name = {0};
        config_key_print(&config_keys[i], &name);
        bool same = span_equal(buf_span(&name), span_str(key));
        buf_release(&name);
        if (same)
            return config_assign(config, &config_keys[i], value, ORIGIN_SET, source, error);
    }
    buf_printf(error, "%s: %s: unknown key; `sierradb --help-config` lists all keys\n", source,
               key);
    return ERR_CONFIG;
}

enum err config_finish(struct config *config, struct buf *error)
{
    resolve_node_count(config);
    if (config->node.count > 1 && config_origin_of(config, "node", "index") == ORIGIN_DEFAULT) {
        buf_printf(error,
                   "node.index: needed where node.count is above 1 (it is %u): give "
                   "--node-index or set it in the file\n",
                   config->node.count);
        return ERR_CONFIG;
    }
    enum err err = apply_overrides(config, error);
    if (err != ERR_OK)
        return err;
    /* An entry of nodes may have brought the peers. */
    resolve_node_count(config);
    if (config->replication.factor == 0)
        config->replication.factor = (uint32_t)min_u64(3, config->node.count);
    if (config->dir[0] == '\0')
        return config_refuse(config, error, "", "dir", "a path, got nothing");
    make_absolute(&config->dir);
    if (config->run_dir[0] == '\0') {
        struct buf path = {0};
        buf_printf(&path, "%s/run", config->dir);
        buf_append_zeros(&path, 1);
        free(config->run_dir);
        config->run_dir = (char *)path.ptr;
    }
    make_absolute(&config->run_dir);
    err = config_read_secret(config, error);
    return err == ERR_OK ? config_check(config, error) : err;
}

static void resolve_node_count(struct config *config)
{
    if (config_origin_of(config, "node", "count") != ORIGIN_DEFAULT)
        return;
    if (config->network.peers.count > 0)
        config->node.count = config->network.peers.count;
    else if (config->memory->node_entries > 0)
        config->node.count = config->memory->node_entries;
}

/* --- Keys and values --- */

const struct config_key *config_key_find(const char *section, const char *name)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].name, name) == 0)
            return &config_keys[i];
    }
    return NULL;
}

void config_key_print(const struct config_key *key, struct buf *out)
{
    buf_printf(out, "%s%s%s", key->section, key->section[0] != '\0' ? "." : "", key->name);
}

enum config_origin config_origin_of(const struct config *config, const char *section,
                                    const char *name)
{
    const struct config_key *key = config_key_find(section, name);
    ASSERT(key != NULL);
    return config->memory->origin[key - config_keys];
}

const char *config_where_of(const struct config *config, const char *section, const char *name)
{
    const struct config_key *key = config_key_find(section, name);
    ASSERT(key != NULL);
    return config->memory->where[key - config_keys];
}

static bool set_text(struct config *config, const struct config_key *key, const char *value)
{
    char **field = field_of(config, key);
    enum log_level level;
    bool valid = config_text_valid(value);
    if (key->type == CONFIG_address)
        valid = config_address_valid(value);
    else if (key->type == CONFIG_protocol)
        valid = strcmp(value, "auto") == 0 || strcmp(value, "2") == 0 || strcmp(value, "3") == 0;
    else if (key->type == CONFIG_level)
        valid = log_level_parse(value, &level);
    if (!valid)
        return false;
    free(*field);
    *field = copy_text(value);
    return true;
}

static bool set_number(struct config *config, const struct config_key *key, const char *value)
{
    uint64_t number;
    bool parsed = key->type == CONFIG_bytes ? config_parse_bytes(value, &number)
                                            : config_parse_u64(value, &number);
    if (!parsed || number < key->min || number > key->max)
        return false;
    if (key->type == CONFIG_number)
        *(uint32_t *)field_of(config, key) = (uint32_t)number;
    else
        *(uint64_t *)field_of(config, key) = number;
    return true;
}

static bool set_boolean(struct config *config, const struct config_key *key, const char *value)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < 4; i++) {
        bool is_yes = strcasecmp(value, yes[i]) == 0;
        if (is_yes || strcasecmp(value, no[i]) == 0) {
            *(bool *)field_of(config, key) = is_yes;
            return true;
        }
    }
    return false;
}

static bool set_ids(struct config *config, const struct config_key *key, const char *value)
{
    uint32_t *ids;
    unsigned count;
    if (!config_parse_ids(key->max, value, &ids, &count))
        return false;
    uint32_t **field = field_of(config, key);
    free(*field);
    *field = ids;
    if (field == &config->bucket.ids)
        config->bucket.ids_count = count;
    else
        config->partition.ids_count = count;
    return true;
}

static bool set_peers(struct config *config, const struct config_key *key, const char *value,
                      struct buf *got)
{
    struct config_peers peers;
    if (!config_parse_peers(value, &peers, got))
        return false;
    config_release_peers(field_of(config, key));
    *(struct config_peers *)field_of(config, key) = peers;
    return true;
}

enum err config_assign(struct config *config, const struct config_key *key, const char *value,
                       enum config_origin origin, const char *where, struct buf *error)
{
    bool done = false;
    struct buf got = {0};
    switch (key->type) {
    case CONFIG_boolean:
        done = set_boolean(config, key, value);
        break;
    case CONFIG_number:
    case CONFIG_count:
    case CONFIG_bytes:
        done = set_number(config, key, value);
        break;
    case CONFIG_text:
    case CONFIG_path:
    case CONFIG_secret:
    case CONFIG_address:
    case CONFIG_protocol:
    case CONFIG_level:
        done = set_text(config, key, value);
        break;
    case CONFIG_peers:
        done = set_peers(config, key, value, &got);
        break;
    case CONFIG_ids:
        done = set_ids(config, key, value);
        break;
    }
    if (!done) {
        if (got.len == 0)
            buf_printf(&got, key->type == CONFIG_secret ? "something else" : "'%s'", value);
        buf_append_zeros(&got, 1);
        enum err err = config_mismatch(key, (char *)got.ptr, where, error);
        buf_release(&got);
        return err;
    }
    config->memory->origin[key - config_keys] = origin;
    char **place = &config->memory->where[key - config_keys];
    if (origin != ORIGIN_DEFAULT) {
        free(*place);
        *place = copy_text(where);
    }
    return ERR_OK;
}

enum err config_mismatch(const struct config_key *key, const char *got, const char *where,
                         struct buf *error)
{
    buf_printf(error, "%s: ", where);
    config_key_print(key, error);
    buf_printf(error, ": expected ");
    print_expected(key, error);
    buf_printf(error, ", got %s\n", got);
    return ERR_CONFIG;
}

static void print_expected(const struct config_key *key, struct buf *out)
{
    switch (key->type) {
    case CONFIG_boolean:
        buf_printf(out, "true or false");
        break;
    case CONFIG_number:
    case CONFIG_count:
        buf_printf(out, "a number from %lu to %lu", key->min, key->max);
        break;
    case CONFIG_bytes:
        buf_printf(out, "a number of bytes from %lu to %lu (64k, 256MiB, 2G are fine too)",
                   key->min, key->max);
        break;
    case CONFIG_text:
    case CONFIG_secret:
        buf_printf(out, "UTF-8 text without control characters");
        break;
    case CONFIG_path:
        buf_printf(out, "a path in UTF-8 without control characters");
        break;
    case CONFIG_address:
        buf_printf(out, "IP:PORT, as in 127.0.0.1:9090 or [::1]:9090");
        break;
    case CONFIG_peers:
        buf_printf(out, "a list of different HOST:PORT, as in node0:9190,10.0.0.2:9190,[::1]:9190");
        break;
    case CONFIG_protocol:
        buf_printf(out, "auto, 2 or 3");
        break;
    case CONFIG_level:
        buf_printf(out, "debug, info, warn or error");
        break;
    case CONFIG_ids:
        buf_printf(out, "all, or a list of different numbers from 0 to %lu", key->max);
        break;
    }
}

/* --- Environment --- */

/* SEGMENT_SIZE_BYTES or SEGMENT__SIZE_BYTES. */
static const struct config_key *find_env_key(const char *name, size_t len)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        const struct config_key *key = &config_keys[i];
        size_t section_len = strlen(key->section);
        const char *rest = name;
        size_t rest_len = len;
        if (section_len > 0) {
            if (len <= section_len + 1 || strncasecmp(name, key->section, section_len) != 0 ||
                name[section_len] != '_')
                continue;
            size_t skip = section_len + (name[section_len + 1] == '_' ? 2 : 1);
            rest += skip;
            rest_len -= skip;
        }
        if (rest_len == strlen(key->name) && strncasecmp(rest, key->name, rest_len) == 0)
            return key;
    }
    return NULL;
}

/* Docker and Kubernetes describe a service called sierradb to its neighbours with variables of
 * our prefix: SIERRADB_SERVICE_HOST, SIERRADB_PORT, SIERRADB_PORT_9090_TCP_ADDR. They aren't
 * meant for us. */
static bool is_service_link(const char *name, size_t len)
{
    struct buf text = {0};
    buf_printf(&text, "_%.*s", (int)len, name);
    buf_append_zeros(&text, 1);
    const char *port = strstr((char *)text.ptr, "_PORT");
    bool link = strstr((char *)text.ptr, "_SERVICE_HOST") != NULL ||
                strstr((char *)text.ptr, "_SERVICE_PORT") != NULL ||
                (port != NULL && (port[5] == '\0' || port[5] == '_'));
    buf_release(&text);
    return link;
}

/* --- nodes: overrides --- */

void config_override(struct config *config, unsigned node, const struct config_key *key,
                     const char *value, const char *where)
{
    struct config_memory *memory = config->memory;
    memory->overrides =
        reallocarray(memory->overrides, memory->overrides_count + 1, sizeof *memory->overrides);
    ASSERT(memory->overrides != NULL);
    memory->overrides[memory->overrides_count++] = (struct override){
        .node = node, .key = key, .value = copy_text(value), .where = copy_text(where)};
}

void config_set_node_entries(struct config *config, unsigned count)
{
    config->memory->node_entries = count;
}

static enum err apply_overrides(struct config *config, struct buf *error)
{
    struct config_memory *memory = config->memory;
    unsigned index = config->node.index;
    for (size_t i = 0; i < memory->overrides_count; i++) {
        const struct override *o = &memory->overrides[i];
        if (o->node != index || memory->origin[o->key - config_keys] > ORIGIN_NODE)
            continue;
        enum err err = config_assign(config, o->key, o->value, ORIGIN_NODE, o->where, error);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* --- Paths --- */

static void make_absolute(char **path)
{
    if ((*path)[0] == '/')
        return;
    char *cwd = getcwd(NULL, 0);
    ASSERT(cwd != NULL);
    struct buf absolute = {0};
    buf_printf(&absolute, "%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, *path);
    buf_append_zeros(&absolute, 1);
    free(cwd);
    free(*path);
    *path = (char *)absolute.ptr;
}
