/* The configuration's file form, YAML or JSON (which YAML contains), read with libyaml's event
 * parser.
 *
 * Why not libcyaml, which maps YAML to structs: it tells the line of a wrong type or an unknown
 * key, but neither what was expected there nor, once a file is loaded, the line of a value that
 * is out of range. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "common/assert.h"
#include "common/config_keys.h"
#include "common/limits.h"

#define FILE_BYTES_MAX (1u << 20)
#define KEYS_MAX       64u

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    struct config *config;
    const char *source;
    struct buf *error;
    int node;               /* index in `nodes`, -1 outside */
    bool seen[2][KEYS_MAX]; /* keys met already: in the file, in this entry of nodes */
};

static enum err read_document(struct reader *reader);
static enum err read_sections(struct reader *reader);
static enum err read_section(struct reader *reader, const char *section);
static enum err read_nodes(struct reader *reader);
static enum err read_value(struct reader *reader, const struct config_key *key);
static enum err read_list(struct reader *reader, const struct config_key *key, struct buf *text);
static enum err next_event(struct reader *reader);
static enum err fail(struct reader *reader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static enum err unknown_key(struct reader *reader, const char *section, const char *name);
static const char *event_kind(const yaml_event_t *event);
static void print_quoted(const char *text, struct buf *out);
static void print_all(const struct config *config, bool shown, struct buf *out);
static bool secret_is_set(const struct config *config, const struct config_key *key);
static void print_value(const struct config *config, const struct config_key *key, struct buf *out);
static void print_peers(const struct config_peers *peers, struct buf *out);
static const char *type_name(enum config_type type);

enum err config_load_file(struct config *config, const char *path, struct buf *error)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        buf_printf(error, "%s: %s\n", path, strerror(errno));
        return ERR_CONFIG;
    }
    struct buf text = {0};
    size_t len = 0;
    do {
        len = fread(buf_reserve(&text, 65536), 1, 65536, file);
        text.len += len;
    } while (len > 0 && text.len <= FILE_BYTES_MAX);
    enum err err = ERR_CONFIG;
    if (ferror(file))
        buf_printf(error, "%s: %s\n", path, strerror(errno));
    else
        err = config_parse(config, buf_span(&text), path, error);
    fclose(file);
    buf_release(&text);
    return err;
}

enum err config_parse(struct config *config, struct span text, const char *source,
                      struct buf *error)
{
    if (text.len > FILE_BYTES_MAX) {
        buf_printf(error, "%s: expected at most %u bytes\n", source, FILE_BYTES_MAX);
        return ERR_CONFIG;
    }
    struct reader reader = {.config = config, .source = source, .error = error, .node = -1};
    ASSERT(config_key_count <= KEYS_MAX);
    ASSERT(yaml_parser_initialize(&reader.parser) == 1);
    yaml_parser_set_input_string(&reader.parser, text.ptr != NULL ? text.ptr : (const uint8_t *)"",
                                 text.len);
    enum err err = read_document(&reader);
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    return err;
}

void config_print(const struct config *config, struct buf *out)
{
    print_all(config, false, out);
}

void config_print_shown(const struct config *config, struct buf *out)
{
    print_all(config, true, out);
}

static void print_all(const struct config *config, bool shown, struct buf *out)
{
    const char *section = "";
    for (unsigned i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (strcmp(key->section, section) != 0) {
            section = key->section;
            buf_printf(out, "%s:\n", section);
        }
        buf_printf(out, "%s%s: ", section[0] != '\0' ? "  " : "", key->name);
        if (shown && key->type == CONFIG_secret && secret_is_set(config, key))
            print_quoted("(hidden)", out);
        else
            print_value(config, key, out);
        buf_printf(out, "\n");
    }
}

void config_print_help(struct buf *out)
{
    buf_printf(out, "%-35s %-9s %-15s %s\n", "KEY", "TYPE", "DEFAULT", "MEANING");
    for (unsigned i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        struct buf name = {0};
        config_key_print(key, &name);
        buf_append_zeros(&name, 1);
        buf_printf(out, "%-35s %-9s %-15s %s", (char *)name.ptr, type_name(key->type),
                   key->default_text[0] != '\0' ? key->default_text : "\"\"", key->doc);
        if (key->max > 0 && key->type != CONFIG_ids)
            buf_printf(out, " (%lu to %lu)", key->min, key->max);
        buf_printf(out, "\n");
        buf_release(&name);
    }
}

/* --- Reading --- */

static enum err read_document(struct reader *reader)
{
    enum err err = next_event(reader); /* stream start */
    if (err == ERR_OK)
        err = next_event(reader);
    if (err != ERR_OK || reader->event.type == YAML_STREAM_END_EVENT)
        return err; /* an empty file says nothing */
    err = next_event(reader);
    if (err != ERR_OK)
        return err;
    /* A file of comments alone is a document with an empty scalar. */
    bool empty = reader->event.type == YAML_SCALAR_EVENT && reader->event.data.scalar.length == 0;
    if (!empty && reader->event.type != YAML_MAPPING_START_EVENT)
        return fail(reader, "expected sections with keys, got %s", event_kind(&reader->event));
    if (!empty)
        err = read_sections(reader);
    if (err == ERR_OK)
        err = next_event(reader); /* document end */
    if (err == ERR_OK)
        err = next_event(reader);
    if (err == ERR_OK && reader->event.type != YAML_STREAM_END_EVENT)
        return fail(reader, "expected one document, got a second one");
    return err;
}

/* The next event is a mapping's key (copied to ret_key), or its end (*ret_key NULL). */
static enum err next_key(struct reader *reader, char **ret_key)
{
    enum err err = next_event(reader);
    if (err != ERR_OK)
        return err;
    *ret_key = NULL;
    if (reader->event.type == YAML_MAPPING_END_EVENT)
        return ERR_OK;
    if (reader->event.type != YAML_SCALAR_EVENT)
        return fail(reader, "expected a key, got %s", event_kind(&reader->event));
    const char *name = (const char *)reader->event.data.scalar.value;
    if (!config_text_valid(name) || strlen(name) != reader->event.data.scalar.length)
        return fail(reader, "expected a key, got control characters");
    *ret_key = strdup(name);
    ASSERT(*ret_key != NULL);
    return ERR_OK;
}

static bool is_section(const char *name)
{
    for (unsigned i = 0; i < config_key_count; i++) {
        if (config_keys[i].section[0] != '\0' && strcmp(config_keys[i].section, name) == 0)
            return true;
    }
    return false;
}

/* The current event began a mapping: of the whole file, or of one entry of nodes. */
static enum err read_sections(struct reader *reader)
{
    char *name = NULL;
    enum err err;
    while ((err = next_key(reader, &name)) == ERR_OK && name != NULL) {
        const struct config_key *key = config_key_find("", name);
        if (strcmp(name, "nodes") == 0 && reader->node < 0)
            err = read_nodes(reader);
        else if (key != NULL)
            err = read_value(reader, key);
        else if (is_section(name))
            err = read_section(reader, name);
        else
            err = unknown_key(reader, "", name);
        free(name);
        if (err != ERR_OK)
            return err;
    }
    return err;
}

static enum err read_section(struct reader *reader, const char *section)
{
    enum err err = next_event(reader);
    if (err != ERR_OK)
        return err;
    if (reader->event.type != YAML_MAPPING_START_EVENT)
        return fail(reader, "%s: expected a section with keys, got %s", section,
                    event_kind(&reader->event));
    char *name = NULL;
    while ((err = next_key(reader, &name)) == ERR_OK && name != NULL) {
        const struct config_key *key = config_key_find(section, name);
        err = key != NULL ? read_value(reader, key) : unknown_key(reader, section, name);
        free(name);
        if (err != ERR_OK)
            return err;
    }
    return err;
}

static enum err read_nodes(struct reader *reader)
{
    enum err err = next_event(reader);
    if (err == ERR_OK && reader->event.type != YAML_SEQUENCE_START_EVENT)
        return fail(reader, "nodes: expected a list of entries, one for each node, got %s",
                    event_kind(&reader->event));
    while (err == ERR_OK && (err = next_event(reader)) == ERR_OK &&
           reader->event.type != YAML_SEQUENCE_END_EVENT) {
        reader->node++;
        memset(reader->seen[1], 0, sizeof reader->seen[1]);
        if (reader->event.type != YAML_MAPPING_START_EVENT)
            return fail(reader, "expected sections with keys, got %s", event_kind(&reader->event));
        if (reader->node >= (int)NODE_COUNT_MAX)
            return fail(reader, "nodes: expected at most %u entries", NODE_COUNT_MAX);
        err = read_sections(reader);
    }
    config_set_node_entries(reader->config, (unsigned)(reader->node + 1));
    reader->node = -1;
    return err;
}

static bool wants_text(const struct config_key *key)
{
    return key->type == CONFIG_text || key->type == CONFIG_path || key->type == CONFIG_secret ||
           key->type == CONFIG_address || key->type == CONFIG_peers || key->type == CONFIG_level ||
           key->type == CONFIG_protocol || key->type == CONFIG_bytes || key->type == CONFIG_ids;
}

static bool is_null(const yaml_event_t *event)
{
    const char *value = (const char *)event->data.scalar.value;
    return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (value[0] == '\0' || strcmp(value, "~") == 0 || strcasecmp(value, "null") == 0);
}

static enum err read_value(struct reader *reader, const struct config_key *key)
{
    enum err err = next_event(reader);
    if (err != ERR_OK)
        return err;
    struct buf where = {0}, value = {0};
    buf_printf(&where, "%s:%zu", reader->source, reader->event.start_mark.line + 1);
    if (reader->node >= 0)
        buf_printf(&where, ": nodes[%d]", reader->node);
    buf_append_zeros(&where, 1);
    const char *got = NULL;
    bool *seen = &reader->seen[reader->node >= 0][key - config_keys];
    if (*seen) {
        got = "it a second time";
    } else if (reader->event.type == YAML_SEQUENCE_START_EVENT &&
               (key->type == CONFIG_ids || key->type == CONFIG_peers)) {
        err = read_list(reader, key, &value);
    } else if (reader->event.type != YAML_SCALAR_EVENT) {
        got = event_kind(&reader->event);
    } else if (is_null(&reader->event)) {
        got = "nothing";
    } else if (strlen((char *)reader->event.data.scalar.value) !=
               reader->event.data.scalar.length) {
        got = "text with a NUL byte";
    } else if (reader->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE && !wants_text(key)) {
        got = "a string";
    } else {
        buf_append_span(&value, span_str((char *)reader->event.data.scalar.value));
    }
    *seen = true;
    buf_append_zeros(&value, 1);
    if (got != NULL) {
        err = config_mismatch(key, got, (char *)where.ptr, reader->error);
    } else if (err == ERR_OK && reader->node >= 0) {
        /* Checked now, for every node, though it counts only on one of them. */
        struct config scratch;
        config_init(&scratch);
        err = config_assign(&scratch, key, (char *)value.ptr, ORIGIN_NODE, (char *)where.ptr,
                            reader->error);
        config_release(&scratch);
        if (err == ERR_OK)
            config_override(reader->config, (unsigned)reader->node, key, (char *)value.ptr,
                            (char *)where.ptr);
    } else if (err == ERR_OK) {
        err = config_assign(reader->config, key, (char *)value.ptr, ORIGIN_FILE, (char *)where.ptr,
                            reader->error);
    }
    buf_release(&where);
    buf_release(&value);
    return err;
}

/* [0, 2, 5] as "0,2,5"; an empty list is no list of ids, but one of no peers. */
static enum err read_list(struct reader *reader, const struct config_key *key, struct buf *text)
{
    enum err err;
    while ((err = next_event(reader)) == ERR_OK && reader->event.type != YAML_SEQUENCE_END_EVENT) {
        const char *wanted = key->type == CONFIG_peers ? "HOST:PORT entries" : "numbers";
        if (reader->event.type != YAML_SCALAR_EVENT)
            return fail(reader, "%s.%s: expected %s, got %s", key->section, key->name, wanted,
                        event_kind(&reader->event));
        const char *item = (const char *)reader->event.data.scalar.value;
        uint64_t id;
        bool valid = strlen(item) == reader->event.data.scalar.length;
        if (key->type == CONFIG_peers)
            valid = valid && *item != '\0' && strchr(item, ',') == NULL;
        else
            valid = valid && config_parse_u64(item, &id);
        if (!valid)
            return fail(reader, "%s.%s: expected %s, got '%s'", key->section, key->name, wanted,
                        item);
        buf_printf(text, "%s%s", text->len > 0 ? "," : "", item);
    }
    return err;
}

static enum err next_event(struct reader *reader)
{
    yaml_event_delete(&reader->event);
    if (yaml_parser_parse(&reader->parser, &reader->event) != 1) {
        const yaml_parser_t *parser = &reader->parser;
        bool marked = parser->problem_mark.line > 0 || parser->problem_mark.column > 0;
        buf_printf(reader->error, "%s:%zu: not YAML or JSON: %s\n", reader->source,
                   marked ? parser->problem_mark.line + 1 : parser->mark.line + 1,
                   parser->problem != NULL ? parser->problem : "unreadable");
        return ERR_CONFIG;
    }
    if (reader->event.type == YAML_ALIAS_EVENT)
        return fail(reader, "expected plain values, got an alias (*%s)",
                    (char *)reader->event.data.alias.anchor);
    return ERR_OK;
}

static enum err fail(struct reader *reader, const char *format, ...)
{
    buf_printf(reader->error, "%s:%zu: ", reader->source, reader->event.start_mark.line + 1);
    if (reader->node >= 0)
        buf_printf(reader->error, "nodes[%d]: ", reader->node);
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buf_printf(reader->error, "%s\n", text);
    return ERR_CONFIG;
}

static enum err unknown_key(struct reader *reader, const char *section, const char *name)
{
    struct buf known = {0};
    const char *last = "";
    for (unsigned i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (section[0] != '\0' && strcmp(key->section, section) != 0)
            continue;
        const char *word = section[0] != '\0' || key->section[0] == '\0' ? key->name : key->section;
        if (strcmp(word, last) != 0)
            buf_printf(&known, "%s%s", known.len > 0 ? ", " : "", word);
        last = word;
    }
    if (section[0] == '\0')
        buf_printf(&known, ", nodes");
    buf_append_zeros(&known, 1);
    enum err err = fail(reader, "%s%s%.100s: unknown key; expected one of %s", section,
                        section[0] != '\0' ? "." : "", name, (char *)known.ptr);
    buf_release(&known);
    return err;
}

static const char *event_kind(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.length == 0 ? "nothing" : "a value";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "a section";
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
    case YAML_ALIAS_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        break;
    }
    return "nothing";
}

/* --- Printing --- */

static bool secret_is_set(const struct config *config, const struct config_key *key)
{
    return (*(char *const *)((const char *)config + key->offset))[0] != '\0';
}

static void print_value(const struct config *config, const struct config_key *key, struct buf *out)
{
    const void *field = (const char *)config + key->offset;
    switch (key->type) {
    case CONFIG_boolean:
        buf_printf(out, "%s", *(const bool *)field ? "true" : "false");
        return;
    case CONFIG_number:
        buf_printf(out, "%u", *(const uint32_t *)field);
        return;
    case CONFIG_count:
    case CONFIG_bytes:
        buf_printf(out, "%lu", *(const uint64_t *)field);
        return;
    case CONFIG_text:
    case CONFIG_path:
    case CONFIG_secret:
    case CONFIG_address:
    case CONFIG_protocol:
    case CONFIG_level:
        print_quoted(*(char *const *)field, out);
        return;
    case CONFIG_peers:
        print_peers(field, out);
        return;
    case CONFIG_ids:
        break;
    }
    const uint32_t *ids = *(uint32_t *const *)field;
    unsigned count = field == (const void *)&config->bucket.ids ? config->bucket.ids_count
                                                                : config->partition.ids_count;
    if (count == 0)
        buf_printf(out, "all");
    for (unsigned i = 0; i < count; i++)
        buf_printf(out, "%s%u%s", i == 0 ? "[" : ", ", ids[i], i + 1 == count ? "]" : "");
}

static void print_peers(const struct config_peers *peers, struct buf *out)
{
    buf_printf(out, "[");
    for (unsigned i = 0; i < peers->count; i++) {
        buf_printf(out, i > 0 ? ", \"" : "\"");
        config_print_peer(&peers->list[i], out);
        buf_printf(out, "\"");
    }
    buf_printf(out, "]");
}

static void print_quoted(const char *text, struct buf *out)
{
    buf_printf(out, "\"");
    for (; *text != '\0'; text++)
        buf_printf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    buf_printf(out, "\"");
}

static const char *type_name(enum config_type type)
{
    static const char *const names[] = {
        [CONFIG_boolean] = "boolean",   [CONFIG_number] = "number",   [CONFIG_count] = "number",
        [CONFIG_bytes] = "bytes",       [CONFIG_text] = "text",       [CONFIG_path] = "path",
        [CONFIG_secret] = "secret",     [CONFIG_address] = "IP:PORT", [CONFIG_peers] = "peers",
        [CONFIG_protocol] = "protocol", [CONFIG_level] = "level",     [CONFIG_ids] = "ids",
    };
    return names[type];
}
