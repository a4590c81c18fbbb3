/* The table of configuration keys and how values get into them: shared by config.c (what a value
 * may be), config_file.c (where it stands in a file) and config_check.c (what values may stand
 * together). Nobody else includes it. */
#pragma once

#include "common/config.h"

enum config_type {
    CONFIG_boolean,
    CONFIG_number,
    CONFIG_count,
    CONFIG_bytes,
    CONFIG_text,
    CONFIG_path,
    CONFIG_secret,
    CONFIG_address,
    CONFIG_peers,
    CONFIG_protocol,
    CONFIG_level,
    CONFIG_ids,
};

struct config_key {
    const char *section; /* "" at the top level */
    const char *name;
    enum config_type type;
    const char *default_text;
    uint64_t min, max;
    const char *doc;
    size_t offset; /* in struct config */
};

/* Where a value came from; a higher one wins. */
enum config_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_NODE, ORIGIN_SET };

extern const struct config_key config_keys[];
extern const unsigned config_key_count;

/* NULL where there is none. */
const struct config_key *config_key_find(const char *section, const char *name);
/* "segment.size_bytes", or "dir" at the top level. */
void config_key_print(const struct config_key *key, struct buf *out);
/* Sets one key from its text; in an error `where` ("FILE:LINE", "environment variable X") comes
 * first. */
enum err config_assign(struct config *config, const struct config_key *key, const char *value,
                       enum config_origin origin, const char *where, struct buf *error) MUST_CHECK;
enum config_origin config_origin_of(const struct config *config, const char *section,
                                    const char *name);
/* "FILE:LINE", "environment variable X"; NULL: the default. */
const char *config_where_of(const struct config *config, const char *section, const char *name);
/* Remembers a value of the file's nodes[node] until config_finish knows which node this is. */
void config_override(struct config *config, unsigned node, const struct config_key *key,
                     const char *value, const char *where);
void config_set_node_entries(struct config *config, unsigned count);
/* "where: key: expected <what the key takes>, got <got>" */
enum err config_mismatch(const struct config_key *key, const char *got, const char *where,
                         struct buf *error) MUST_CHECK;

/* --- relations between keys (config_check.c) --- */

/* Reads the secret from its file, where there is one and no secret yet. */
enum err config_read_secret(struct config *config, struct buf *error) MUST_CHECK;
/* After all defaults are resolved. Lowers default limits that a small segment can't hold. */
enum err config_check(struct config *config, struct buf *error) MUST_CHECK;
/* "where: key: expected <format>" */
enum err config_refuse(const struct config *config, struct buf *error, const char *section,
                       const char *name, const char *format, ...)
    __attribute__((format(printf, 5, 6))) MUST_CHECK;

/* --- values (config_value.c): false where the text is none --- */
bool config_parse_u64(const char *text, uint64_t *ret_value);
/* Digits and a suffix: k, M, G, T, each with or without B or iB, all powers of 1024. */
bool config_parse_bytes(const char *text, uint64_t *ret_value);
/* "all" (no list), or "0,2,4-7": different numbers up to max. The caller frees the list. */
bool config_parse_ids(uint64_t max, const char *text, uint32_t **ret_ids, unsigned *ret_count);
/* IP:PORT with a literal address. */
bool config_address_valid(const char *text);
/* "HOST:PORT,HOST:PORT", each once; empty: none. *ret_peers is released by config_release_peers.
 * Where false, *why says what is wrong ("entry 1, 'a': no port"). */
bool config_parse_peers(const char *text, struct config_peers *ret_peers, struct buf *why);
void config_release_peers(struct config_peers *peers);
/* UTF-8 without control characters: what YAML can carry to the children as it is. */
bool config_text_valid(const char *text);
