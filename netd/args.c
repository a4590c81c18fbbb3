/* The grammar of the commands' arguments: scalars, appends and scans. Subscriptions:
 * args_subscribe.c. */
#include "netd/args.h"

#include "common/limits.h"

static bool append_option(struct args *args, struct append_args *event, enum append_option option);
static bool once(struct args *args, unsigned given, unsigned option, const char *what);
static bool expected_version(struct args *args, struct append_args *event);
static bool timestamp(struct args *args, struct append_args *event);
static bool bytes(struct args *args, const char *what, struct span *ret_bytes);
static bool event_head(struct args *args, struct append_args *event);
static unsigned option_at(const struct args *args);

bool text_is_utf8(struct span text)
{
    const uint8_t *p = text.ptr, *end = text.ptr + text.len;
    while (p < end) {
        if (end - p >= 8 && (load_u64(p) & 0x8080808080808080ull) == 0) {
            p += 8;
            continue;
        }
        uint8_t c = *p++;
        if (c < 0x80)
            continue;
        unsigned more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || (size_t)(end - p) < more)
            return false;
        /* The second byte's bounds exclude overlong forms, surrogates and what lies above U+10FFFF.
         */
        uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
        uint8_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if (*p < low || *p > high)
            return false;
        for (unsigned i = 1; i < more; i++)
            if ((p[i] & 0xc0) != 0x80)
                return false;
        p += more;
    }
    return true;
}

bool text_parse_u64(struct span text, uint64_t *ret_value)
{
    size_t i = text.len > 0 && text.ptr[0] == '+' ? 1 : 0;
    if (i == text.len)
        return false;
    uint64_t value = 0;
    for (; i < text.len; i++) {
        unsigned digit = (unsigned)text.ptr[i] - '0';
        if (digit > 9 || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *ret_value = value;
    return true;
}

bool text_is(struct span text, const char *keyword)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];
        if (c >= 'a' && c <= 'z')
            c = (uint8_t)(c - 'a' + 'A');
        if (keyword[i] == '\0' || c != (uint8_t)keyword[i])
            return false;
    }
    return keyword[text.len] == '\0';
}

bool args_unexpected(struct args *args, const char *what)
{
    buf_printf(args->error, "unexpected %s: expected %s",
               args->left == 0 ? "end of input" : args->at->kind, what);
    return false;
}

bool args_take_word(struct args *args, const char *keyword)
{
    if (args->left == 0 || args->at->type != RESP_STRING || !text_is(args->at->value, keyword))
        return false;
    args->at++;
    args->left--;
    return true;
}

bool args_end(struct args *args)
{
    return args->left == 0 || args_unexpected(args, "end of input");
}

bool args_u64(struct args *args, const char *what, uint64_t *ret_value)
{
    if (args->left == 0 || (args->at->type != RESP_STRING && args->at->type != RESP_NUMBER) ||
        !text_parse_u64(args->at->value, ret_value))
        return args_unexpected(args, what);
    args->at++;
    args->left--;
    return true;
}

bool args_text(struct args *args, const char *what, struct span *ret_text)
{
    if (args->left == 0 || args->at->type != RESP_STRING || !text_is_utf8(args->at->value))
        return args_unexpected(args, what);
    *ret_text = args->at->value;
    args->at++;
    args->left--;
    return true;
}

bool args_stream(struct args *args, struct span *ret_stream)
{
    struct span text;
    if (!args_text(args, "stream id", &text))
        return false;
    if (text.len == 0 || text.len > STREAM_ID_LEN_MAX) {
        buf_printf(
            args->error,
            "stream id must be between 1 and %u characters in length, but got %zu for '%.*s%s'",
            STREAM_ID_LEN_MAX, text.len, (int)min_u64(text.len, 256), (const char *)text.ptr,
            text.len > 256 ? "..." : "");
        return false;
    }
    if (memchr(text.ptr, 0, text.len) != NULL) {
        buf_printf(args->error, "stream id cannot contain null bytes");
        return false;
    }
    *ret_stream = text;
    return true;
}

bool args_uuid(struct args *args, const char *what, struct uuid *ret_uuid)
{
    if (args->left == 0 || args->at->type != RESP_STRING)
        return args_unexpected(args, what);
    if (!uuid_parse(args->at->value, ret_uuid)) {
        buf_printf(args->error, "invalid %s", what);
        return false;
    }
    args->at++;
    args->left--;
    return true;
}

bool args_partition(struct args *args, uint32_t partition_count, uint32_t *ret_partition)
{
    struct uuid key;
    uint64_t id;
    if (args->left > 0 && args->at->type == RESP_STRING && uuid_parse(args->at->value, &key)) {
        *ret_partition = uuid_hash(&key) % partition_count;
        args->at++;
        args->left--;
        return true;
    }
    if (!args_u64(args, "partition id or key", &id))
        return false;
    if (id >= partition_count) {
        buf_printf(args->error, "partition id %lu is out of range: expected 0 to %u", id,
                   partition_count - 1);
        return false;
    }
    *ret_partition = (uint32_t)id;
    return true;
}

bool args_range(struct args *args, const char *noun, struct range_args *ret_range)
{
    static const char what[] = "range value (-, +, or number)";
    struct range_args range = {.from = 0, .to = UINT64_MAX};
    bool start_is_last = args_take_word(args, "+");
    bool start_is_first = !start_is_last && args_take_word(args, "-");
    if (!start_is_last && !start_is_first && !args_u64(args, what, &range.from))
        return false;
    bool end_is_last = args_take_word(args, "+");
    bool end_is_first = !end_is_last && args_take_word(args, "-");
    if (!end_is_last && !end_is_first && !args_u64(args, what, &range.to))
        return false;
    if (start_is_last && end_is_last) {
        buf_printf(args->error, "start %s cannot be '+' when the end is '+'", noun);
        return false;
    }
    if (end_is_first && !start_is_last) {
        buf_printf(args->error, "end %s cannot be '-' unless the start is '+'", noun);
        return false;
    }
    if (start_is_last) {
        range.reverse = true;
        range.from = UINT64_MAX;
        range.to = end_is_first ? 0 : range.to;
    }
    *ret_range = range;
    return true;
}

bool args_append(struct args *args, struct append_args *ret_event)
{
    *ret_event = (struct append_args){0};
    if (!event_head(args, ret_event))
        return false;
    while (args->left > 0) {
        unsigned option = option_at(args);
        if (option == 0)
            return args_unexpected(args, "EVENT_ID, PARTITION_KEY, EXPECTED_VERSION, TIMESTAMP, "
                                         "PAYLOAD, METADATA or end of input");
        if (!append_option(args, ret_event, option))
            return false;
    }
    return true;
}

bool args_multi_event(struct args *args, struct append_args *ret_event)
{
    *ret_event = (struct append_args){0};
    if (!event_head(args, ret_event))
        return false;
    unsigned option;
    while (args->left > 0 && (option = option_at(args)) != 0) {
        if (option == OPTION_PARTITION_KEY)
            return args_unexpected(
                args, "EVENT_ID, EXPECTED_VERSION, TIMESTAMP, PAYLOAD, METADATA, "
                      "stream id or end of input (the partition key is given once, first)");
        if (!append_option(args, ret_event, option))
            return false;
    }
    return true;
}

bool args_scan_options(struct args *args, bool by_stream, struct scan_args *scan)
{
    bool count_given = false;
    scan->count = 100;
    scan->key_given = false;
    while (args->left > 0) {
        if (args_take_word(args, "COUNT")) {
            if (!once(args, count_given, 1, "count") || !args_u64(args, "number", &scan->count))
                return false;
            count_given = true;
        } else if (by_stream && args_take_word(args, "PARTITION_KEY")) {
            if (!once(args, scan->key_given, 1, "partition key") ||
                !args_uuid(args, "partition key", &scan->key))
                return false;
            scan->key_given = true;
        } else {
            return args_unexpected(args, by_stream ? "PARTITION_KEY, COUNT or end of input"
                                                   : "COUNT, number or end of input");
        }
    }
    return true;
}

static bool event_head(struct args *args, struct append_args *event)
{
    if (!args_stream(args, &event->stream) || !args_text(args, "event name", &event->name))
        return false;
    if (event->name.len <= EVENT_NAME_LEN_MAX)
        return true;
    buf_printf(args->error, "event name must be at most %u bytes in length, but got %zu",
               EVENT_NAME_LEN_MAX, event->name.len);
    return false;
}

/* The option whose keyword stands next, 0 where there is none. */
static unsigned option_at(const struct args *args)
{
    if (args->at->type != RESP_STRING)
        return 0;
    struct span word = args->at->value;
    switch (word.len) {
    case 7:
        return text_is(word, "PAYLOAD") ? OPTION_PAYLOAD : 0;
    case 8:
        return text_is(word, "EVENT_ID")   ? OPTION_EVENT_ID
               : text_is(word, "METADATA") ? OPTION_METADATA
                                           : 0;
    case 9:
        return text_is(word, "TIMESTAMP") ? OPTION_TIMESTAMP : 0;
    case 13:
        return text_is(word, "PARTITION_KEY") ? OPTION_PARTITION_KEY : 0;
    case 16:
        return text_is(word, "EXPECTED_VERSION") ? OPTION_EXPECTED_VERSION : 0;
    default:
        return 0;
    }
}

static bool append_option(struct args *args, struct append_args *event, enum append_option option)
{
    args->at++;
    args->left--;
    unsigned given = event->given;
    event->given |= option;
    switch (option) {
    case OPTION_EVENT_ID:
        return once(args, given, option, "event id") &&
               args_uuid(args, "event id", &event->event_id);
    case OPTION_PARTITION_KEY:
        return once(args, given, option, "partition key") &&
               args_uuid(args, "partition key", &event->partition_key);
    case OPTION_EXPECTED_VERSION:
        return once(args, given, option, "expected version") && expected_version(args, event);
    case OPTION_TIMESTAMP:
        return once(args, given, option, "timestamp") && timestamp(args, event);
    case OPTION_PAYLOAD:
        return once(args, given, option, "payload") && bytes(args, "payload", &event->payload);
    case OPTION_METADATA:
        return once(args, given, option, "metadata") && bytes(args, "metadata", &event->metadata);
    }
    return false;
}

static bool once(struct args *args, unsigned given, unsigned option, const char *what)
{
    if ((given & option) == 0)
        return true;
    buf_printf(args->error, "%s already specified", what);
    return false;
}

static bool expected_version(struct args *args, struct append_args *event)
{
    if (args_take_word(args, "ANY")) {
        event->expect = EXPECT_ANY;
    } else if (args_take_word(args, "EXISTS")) {
        event->expect = EXPECT_EXISTS;
    } else if (args_take_word(args, "EMPTY")) {
        event->expect = EXPECT_EMPTY;
    } else {
        event->expect = EXPECT_VERSION;
        return args_u64(args, "EXPECTED_VERSION any, exists, empty or number",
                        &event->expect_version);
    }
    return true;
}

static bool timestamp(struct args *args, struct append_args *event)
{
    if (!args_u64(args, "TIMESTAMP in milliseconds", &event->timestamp_ms))
        return false;
    if (event->timestamp_ms <= UINT64_MAX / 1000000)
        return true;
    buf_printf(args->error, "invalid timestamp format: expected milliseconds, got nanoseconds");
    return false;
}

static bool bytes(struct args *args, const char *what, struct span *ret_bytes)
{
    if (args->left == 0 || args->at->type != RESP_STRING)
        return args_unexpected(args, what);
    *ret_bytes = args->at->value;
    args->at++;
    args->left--;
    return true;
}
