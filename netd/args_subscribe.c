/* The grammar of ESUB and EPSUB. */
#include <stdlib.h>

#include "common/assert.h"
#include "common/limits.h"
#include "netd/args.h"

/* FROM and WINDOW, which both commands share. */
struct tail_args {
    bool from_given, window_given;
    uint64_t window;
    struct start_args start;    /* of all that no MAP entry names */
    const struct resp_arg *map; /* the MAP's entries */
    uint32_t map_count;
};

static bool parse_tail(struct args *args, struct tail_args *tail, const char *map_what);
static bool parse_from(struct args *args, struct tail_args *tail, const char *map_what);
static bool parse_map(struct args *args, struct tail_args *tail, const char *map_what);
static bool map_entry(const struct resp_arg *arg, struct span *ret_name, uint64_t *ret_position);
static bool add_stream(struct args *args, struct subscribe_args *subscribe, uint32_t *cap);
static void collapse_streams(struct subscribe_args *subscribe);
static bool parse_selector(struct args *args, uint32_t partition_count, uint8_t *chosen);
static bool select_item(struct args *args, struct span item, uint32_t partition_count,
                        uint8_t *chosen);
static struct span trim(struct span text);

static const char selector_what[] = "*, partition id or comma-separated partition ids";

bool args_esub(struct args *args, struct subscribe_args *ret_subscribe)
{
    *ret_subscribe = (struct subscribe_args){0};
    uint32_t cap = 0;
    if (!add_stream(args, ret_subscribe, &cap))
        return false;
    struct stream_source_args *last = &ret_subscribe->streams[0];
    /* From here on a keyword is a keyword: only the first position may name a stream FROM. */
    while (args->left > 0) {
        struct span word = args->at->value;
        if (args->at->type == RESP_STRING && (text_is(word, "FROM") || text_is(word, "WINDOW")))
            break;
        if (args_take_word(args, "PARTITION_KEY")) {
            if (last->key_given) {
                buf_printf(args->error, "partition key already specified");
                return false;
            }
            if (!args_uuid(args, "partition key", &last->key))
                return false;
            last->key_given = true;
        } else if (add_stream(args, ret_subscribe, &cap)) {
            last = &ret_subscribe->streams[ret_subscribe->count - 1];
        } else {
            return false;
        }
    }
    struct tail_args tail;
    if (!parse_tail(args, &tail, "stream=version"))
        return false;
    ret_subscribe->window = tail.window;
    for (uint32_t i = 0; i < ret_subscribe->count; i++)
        ret_subscribe->streams[i].start = tail.start;
    collapse_streams(ret_subscribe);
    for (uint32_t m = 0; m < tail.map_count; m++) {
        struct span name;
        uint64_t position;
        bool valid = map_entry(&tail.map[m], &name, &position);
        ASSERT(valid);
        for (uint32_t i = 0; i < ret_subscribe->count; i++)
            if (span_equal(ret_subscribe->streams[i].stream, name))
                ret_subscribe->streams[i].start = (struct start_args){.position = position};
    }
    return true;
}

bool args_epsub(struct args *args, uint32_t partition_count, struct subscribe_args *ret_subscribe)
{
    *ret_subscribe = (struct subscribe_args){0};
    uint8_t *chosen = calloc(partition_count, 1);
    struct start_args *starts = calloc(partition_count, sizeof *starts);
    ASSERT(chosen != NULL && starts != NULL);
    struct tail_args tail;
    bool ok = parse_selector(args, partition_count, chosen) &&
              parse_tail(args, &tail, "partition id sequence value");
    for (uint32_t p = 0; ok && p < partition_count; p++)
        starts[p] = tail.start;
    for (uint32_t m = 0; ok && m < tail.map_count; m++) {
        struct span name;
        uint64_t position, partition;
        ok = map_entry(&tail.map[m], &name, &position);
        ASSERT(ok);
        if (!text_parse_u64(name, &partition)) {
            buf_printf(args->error, "unexpected string: expected partition id sequence value");
            ok = false;
        } else if (partition < partition_count) {
            starts[partition] = (struct start_args){.position = position};
        }
    }
    if (ok) {
        ret_subscribe->window = tail.window;
        ret_subscribe->partitions = calloc(partition_count, sizeof *ret_subscribe->partitions);
        ASSERT(ret_subscribe->partitions != NULL);
        for (uint32_t p = 0; p < partition_count; p++)
            if (chosen[p])
                ret_subscribe->partitions[ret_subscribe->count++] =
                    (struct partition_source_args){.partition = p, .start = starts[p]};
    }
    free(chosen);
    free(starts);
    return ok;
}

void subscribe_args_release(struct subscribe_args *subscribe)
{
    free(subscribe->streams);
    free(subscribe->partitions);
    *subscribe = (struct subscribe_args){0};
}

static bool add_stream(struct args *args, struct subscribe_args *subscribe, uint32_t *cap)
{
    struct span stream;
    if (!args_stream(args, &stream))
        return false;
    if (subscribe->count == *cap) {
        *cap = *cap == 0 ? 4 : *cap * 2;
        subscribe->streams = realloc(subscribe->streams, *cap * sizeof *subscribe->streams);
        ASSERT(subscribe->streams != NULL);
    }
    subscribe->streams[subscribe->count++] = (struct stream_source_args){.stream = stream};
    return true;
}

static int compare_streams(const void *left, const void *right)
{
    const struct stream_source_args *a = left, *b = right;
    if (a->stream.len != b->stream.len)
        return a->stream.len < b->stream.len ? -1 : 1;
    int order = memcmp(a->stream.ptr, b->stream.ptr, a->stream.len);
    return order != 0 ? order : memcmp(&a->key, &b->key, sizeof a->key);
}

/* The same stream under the same key is followed once. */
static void collapse_streams(struct subscribe_args *subscribe)
{
    for (uint32_t i = 0; i < subscribe->count; i++)
        if (!subscribe->streams[i].key_given) {
            subscribe->streams[i].key = uuid_partition_key(subscribe->streams[i].stream);
            subscribe->streams[i].key_given = true;
        }
    qsort(subscribe->streams, subscribe->count, sizeof *subscribe->streams, compare_streams);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < subscribe->count; i++)
        if (i == 0 || compare_streams(&subscribe->streams[kept - 1], &subscribe->streams[i]) != 0)
            subscribe->streams[kept++] = subscribe->streams[i];
    subscribe->count = kept;
}

/* [FROM ...] [WINDOW n] in either order, up to the end. */
static bool parse_tail(struct args *args, struct tail_args *tail, const char *map_what)
{
    *tail = (struct tail_args){.start.latest = true};
    while (args->left > 0) {
        if (!tail->from_given && args_take_word(args, "FROM")) {
            tail->from_given = true;
            if (!parse_from(args, tail, map_what))
                return false;
        } else if (!tail->window_given && args_take_word(args, "WINDOW")) {
            tail->window_given = true;
            if (!args_u64(args, "WINDOW number", &tail->window))
                return false;
            if (tail->window == 0) {
                buf_printf(args->error, "number 0 must not be less than 1");
                return false;
            }
        } else {
            return args_unexpected(args, tail->from_given && tail->window_given ? "end of input"
                                         : tail->from_given   ? "WINDOW or end of input"
                                         : tail->window_given ? "FROM or end of input"
                                                              : "FROM, WINDOW or end of input");
        }
    }
    return true;
}

static bool parse_from(struct args *args, struct tail_args *tail, const char *map_what)
{
    if (args_take_word(args, "LATEST"))
        return true;
    if (args_take_word(args, "MAP"))
        return parse_map(args, tail, map_what);
    tail->start.latest = false;
    return args_u64(args, "LATEST, number or MAP", &tail->start.position);
}

static bool parse_map(struct args *args, struct tail_args *tail, const char *map_what)
{
    struct span name;
    uint64_t position;
    tail->map = args->at;
    while (args->left > 0 && map_entry(args->at, &name, &position)) {
        tail->map_count++;
        args->at++;
        args->left--;
    }
    if (args_take_word(args, "DEFAULT")) {
        tail->start.latest = false;
        return args_u64(args, "DEFAULT number", &tail->start.position);
    }
    if (tail->map_count == 0)
        return args_unexpected(args, map_what);
    if (args->left > 0 && !(args->at->type == RESP_STRING && text_is(args->at->value, "WINDOW")))
        return args_unexpected(args, map_what);
    return true;
}

/* name=position, split at the last '=': a stream id may hold one, a number can't. */
static bool map_entry(const struct resp_arg *arg, struct span *ret_name, uint64_t *ret_position)
{
    if (arg->type != RESP_STRING)
        return false;
    const uint8_t *equals =
        arg->value.len > 0 ? memrchr(arg->value.ptr, '=', arg->value.len) : NULL;
    if (equals == NULL || equals == arg->value.ptr)
        return false;
    size_t name_len = (size_t)(equals - arg->value.ptr);
    *ret_name = span_of(arg->value.ptr, name_len);
    return text_parse_u64(span_of(equals + 1, arg->value.len - name_len - 1), ret_position);
}

static bool parse_selector(struct args *args, uint32_t partition_count, uint8_t *chosen)
{
    if (args->left == 0 || (args->at->type != RESP_STRING && args->at->type != RESP_NUMBER))
        return args_unexpected(args, selector_what);
    struct span rest = args->at->value;
    struct uuid key;
    if (text_is(trim(rest), "*")) {
        memset(chosen, 1, partition_count);
    } else if (uuid_parse(rest, &key)) {
        chosen[uuid_hash(&key) % partition_count] = 1;
    } else {
        for (bool more = true; more;) {
            const uint8_t *comma = rest.len > 0 ? memchr(rest.ptr, ',', rest.len) : NULL;
            size_t len = comma != NULL ? (size_t)(comma - rest.ptr) : rest.len;
            if (!select_item(args, trim(span_of(rest.ptr, len)), partition_count, chosen))
                return false;
            more = comma != NULL;
            if (more)
                rest = span_of(comma + 1, rest.len - len - 1);
        }
    }
    args->at++;
    args->left--;
    return true;
}

/* One id, one a-b range, or one key. */
static bool select_item(struct args *args, struct span item, uint32_t partition_count,
                        uint8_t *chosen)
{
    struct uuid key;
    uint64_t first, last;
    if (uuid_parse(item, &key)) {
        chosen[uuid_hash(&key) % partition_count] = 1;
        return true;
    }
    const uint8_t *dash = item.len > 0 ? memchr(item.ptr, '-', item.len) : NULL;
    size_t len = dash != NULL ? (size_t)(dash - item.ptr) : item.len;
    if (!text_parse_u64(trim(span_of(item.ptr, len)), &first))
        return args_unexpected(args, selector_what);
    last = first;
    if (dash != NULL && !text_parse_u64(trim(span_of(dash + 1, item.len - len - 1)), &last))
        return args_unexpected(args, selector_what);
    if (first > last || last >= partition_count) {
        buf_printf(args->error, "partition id %lu is out of range: expected %s0 to %u", last,
                   first > last ? "an ascending range within " : "", partition_count - 1);
        return false;
    }
    for (uint64_t p = first; p <= last; p++)
        chosen[p] = 1;
    return true;
}

static struct span trim(struct span text)
{
    while (text.len > 0 && text.ptr[0] == ' ')
        text = span_of(text.ptr + 1, text.len - 1);
    while (text.len > 0 && text.ptr[text.len - 1] == ' ')
        text.len--;
    return text;
}
