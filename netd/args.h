/* The grammar of the commands' arguments: values out, or the text of an INVALIDARG error.
 *
 * Pure. Every function returns false after it has written the error's text, without the code, into
 * args->error; the text names what was expected. Results hold views into the arguments. */
#pragma once

#include "proto/messages.h"
#include "proto/resp.h"

struct args {
    const struct resp_arg *at;
    uint32_t left;
    struct buf *error; /* borrowed */
};

enum append_option {
    OPTION_EVENT_ID = 1,
    OPTION_PARTITION_KEY = 2,
    OPTION_EXPECTED_VERSION = 4,
    OPTION_TIMESTAMP = 8,
    OPTION_PAYLOAD = 16,
    OPTION_METADATA = 32,
};

/* One event as the client gave it. */
struct append_args {
    struct span stream, name, payload, metadata;
    struct uuid event_id, partition_key;
    enum expect expect;
    uint64_t expect_version;
    uint64_t timestamp_ms;
    unsigned given; /* enum append_option bits */
};

/* A range as written: `-`, `+` or a number on either side. */
struct range_args {
    uint64_t from, to;
    bool reverse;
};

struct scan_args {
    struct range_args range;
    uint64_t count;
    bool key_given;
    struct uuid key;
};

/* Where a subscription's source starts. */
struct start_args {
    bool latest;
    uint64_t position;
};

struct stream_source_args {
    struct span stream;
    bool key_given;
    struct uuid key;
    struct start_args start;
};

struct partition_source_args {
    uint32_t partition;
    struct start_args start;
};

struct subscribe_args {
    uint64_t window; /* 0: not given */
    uint32_t count;
    struct stream_source_args *streams;       /* ESUB */
    struct partition_source_args *partitions; /* EPSUB, ascending, each once */
};

bool text_is_utf8(struct span text);
/* Decimal digits, optionally after one '+'. */
bool text_parse_u64(struct span text, uint64_t *ret_value);
/* Upper-case ASCII `keyword` against text of any case. */
bool text_is(struct span text, const char *keyword);

/* Writes "unexpected <kind>: expected <what>" or "unexpected end of input: expected <what>". */
bool args_unexpected(struct args *args, const char *what);
/* The next argument is this keyword: takes it. Never an error. */
bool args_take_word(struct args *args, const char *keyword);
bool args_end(struct args *args);
bool args_u64(struct args *args, const char *what, uint64_t *ret_value);
/* A string of valid UTF-8. */
bool args_text(struct args *args, const char *what, struct span *ret_text);
bool args_stream(struct args *args, struct span *ret_stream);
/* what: "event id" etc.; a bad one is "invalid <what>". */
bool args_uuid(struct args *args, const char *what, struct uuid *ret_uuid);
/* An id or a key's UUID; partition.count bounds it. */
bool args_partition(struct args *args, uint32_t partition_count, uint32_t *ret_partition);
/* noun: "version" or "sequence", for the error texts. */
bool args_range(struct args *args, const char *noun, struct range_args *ret_range);

/* EAPPEND's arguments, all of them. */
bool args_append(struct args *args, struct append_args *ret_event);
/* The next event of an EMAPPEND, up to where another one starts. */
bool args_multi_event(struct args *args, struct append_args *ret_event);
/* COUNT and, with by_stream, PARTITION_KEY. */
bool args_scan_options(struct args *args, bool by_stream, struct scan_args *scan);
/* ESUB's and EPSUB's arguments. The result is released with subscribe_args_release, after an error
 * too. */
bool args_esub(struct args *args, struct subscribe_args *ret_subscribe);
bool args_epsub(struct args *args, uint32_t partition_count, struct subscribe_args *ret_subscribe);
void subscribe_args_release(struct subscribe_args *subscribe);
