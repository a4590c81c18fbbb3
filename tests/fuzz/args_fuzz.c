/* The commands' argument grammar with any arguments: a result or an error text, never both, and
 * what a result says lies within the arguments.
 *
 * The first byte chooses the grammar; the rest are the arguments, each behind a byte: below 200 its
 * length, else a keyword or a non-string by number. */
#include "common/assert.h"
#include "common/limits.h"
#include "netd/args.h"

#define ARGS_MAX        64u
#define PARTITION_COUNT 32u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static const char *const words[] = {
    "EVENT_ID",
    "PARTITION_KEY",
    "EXPECTED_VERSION",
    "TIMESTAMP",
    "PAYLOAD",
    "METADATA",
    "COUNT",
    "FROM",
    "LATEST",
    "MAP",
    "DEFAULT",
    "WINDOW",
    "any",
    "exists",
    "empty",
    "-",
    "+",
    "*",
    "0",
    "18446744073709551615",
    "stream",
    "stream=5",
    "3=7",
    "0-9",
    "1,2,3",
    "b5caaf75-d5ce-5289-a5cb-29de88f7c202",
    "550e8400-e29b-41d4-a716-446655440000",
};
#define WORDS (sizeof words / sizeof *words)

static uint32_t make_args(const uint8_t *bytes, size_t len, struct resp_arg args[static ARGS_MAX])
{
    uint32_t count = 0;
    size_t at = 0;
    while (at < len && count < ARGS_MAX) {
        uint8_t code = bytes[at++];
        struct resp_arg *arg = &args[count++];
        if (code < 200) {
            size_t size = code < len - at ? code : len - at;
            *arg = (struct resp_arg){span_of(bytes + at, size), RESP_STRING, "string"};
            at += size;
        } else if (code - 200u < WORDS) {
            *arg = (struct resp_arg){span_str(words[code - 200u]), RESP_STRING, "string"};
        } else if (code % 3 == 0) {
            *arg = (struct resp_arg){span_str("42"), RESP_NUMBER, "number"};
        } else if (code % 3 == 1) {
            *arg = (struct resp_arg){{0}, RESP_NULL, "null"};
        } else {
            *arg = (struct resp_arg){{0}, RESP_OTHER, "array"};
        }
    }
    return count;
}

static void check_event(const struct append_args *event)
{
    ASSERT(event->stream.len >= 1 && event->stream.len <= STREAM_ID_LEN_MAX);
    ASSERT(event->name.len <= EVENT_NAME_LEN_MAX && event->expect <= EXPECT_VERSION);
}

static bool parse_events(struct args *args, bool several)
{
    struct append_args event;
    struct uuid key;
    if (!several) {
        bool ok = args_append(args, &event);
        if (ok)
            check_event(&event);
        return ok;
    }
    if (!args_uuid(args, "partition key", &key))
        return false;
    do {
        uint32_t before = args->left;
        if (!args_multi_event(args, &event))
            return false;
        ASSERT(args->left < before);
        check_event(&event);
    } while (args->left > 0);
    return true;
}

static bool parse_scan(struct args *args, bool by_stream)
{
    struct span stream;
    uint32_t partition = 0;
    struct scan_args scan = {0};
    bool ok =
        by_stream ? args_stream(args, &stream) : args_partition(args, PARTITION_COUNT, &partition);
    ASSERT(!ok || partition < PARTITION_COUNT);
    return ok && args_range(args, by_stream ? "version" : "sequence", &scan.range) &&
           args_scan_options(args, by_stream, &scan);
}

static bool parse_subscription(struct args *args, bool by_stream)
{
    struct subscribe_args subscribe;
    bool ok =
        by_stream ? args_esub(args, &subscribe) : args_epsub(args, PARTITION_COUNT, &subscribe);
    ASSERT(!ok || subscribe.count > 0);
    for (uint32_t i = 0; ok && !by_stream && i < subscribe.count; i++) {
        ASSERT(subscribe.partitions[i].partition < PARTITION_COUNT);
        ASSERT(i == 0 || subscribe.partitions[i - 1].partition < subscribe.partitions[i].partition);
    }
    subscribe_args_release(&subscribe);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return 0;
    struct resp_arg list[ARGS_MAX];
    struct buf error = {0};
    struct args args = {.at = list, .left = make_args(bytes + 1, len - 1, list), .error = &error};
    bool ok = false;
    switch (bytes[0] % 6) {
    case 0:
    case 1:
        ok = parse_events(&args, bytes[0] % 6 == 1);
        break;
    case 2:
    case 3:
        ok = parse_scan(&args, bytes[0] % 6 == 2);
        break;
    default:
        ok = parse_subscription(&args, bytes[0] % 6 == 4);
    }
    ASSERT(ok ? args.left == 0 && error.len == 0 : error.len > 0);
    buf_release(&error);
    return 0;
}
