/* The request reader with any bytes: the same results however they are cut, nothing read outside,
 * and arguments that were read, written as a request, read back the same.
 *
 * The first byte chooses the limits, the next eight seed the chunking. */
#include "common/assert.h"
#include "proto/resp.h"

#define PREFIX_LEN 9u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static const struct resp_limits limits[] = {
    {8u << 20, 1u << 20, 64u << 10, 64u << 20},
    {100, 8, 50, 1000},
    {16, 4, 16, 200},
    {8u << 20, 1u << 20, 64u << 10, 400},
};

/* Appends what every result was; true where the stream can't be trusted any more. */
static bool drain(struct resp_reader *reader, struct buf *trace)
{
    const struct resp_arg *args;
    uint32_t count;
    const char *error;
    for (;;) {
        enum err err = resp_reader_next(reader, &args, &count, &error);
        if (err == ERR_AGAIN)
            return false;
        if (err != ERR_OK) {
            ASSERT(err == ERR_PROTOCOL || err == ERR_INVALID);
            ASSERT(strncmp(error, "ERR ", 4) == 0);
            buf_printf(trace, "%s|%s\n", err_name(err), error);
            if (err == ERR_PROTOCOL)
                return true;
            continue;
        }
        buf_printf(trace, "%u\n", count);
        for (uint32_t i = 0; i < count; i++) {
            buf_printf(trace, "%d %s %zu ", (int)args[i].type, args[i].kind, args[i].value.len);
            buf_append_span(trace, args[i].value);
        }
    }
}

/* `state` 0: in one piece. */
static void parse(struct span bytes, const struct resp_limits *chosen, uint64_t state,
                  struct buf *trace)
{
    struct resp_reader *reader = resp_reader_new(chosen);
    bool pieces = state != 0;
    while (bytes.len > 0) {
        size_t size = bytes.len;
        if (pieces) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            size = 1 + (state >> 33) % ((state & 1 << 20) != 0 ? 3 : 40);
            size = size < bytes.len ? size : bytes.len;
        }
        size_t room_len;
        uint8_t *room = resp_reader_room(reader, size, &room_len);
        ASSERT(room_len >= size);
        memcpy(room, bytes.ptr, size);
        size_t beyond = room_len - size < 64 ? room_len - size : 64;
        memset(room + size, '$', beyond); /* must not be taken for input */
        resp_reader_fed(reader, size);
        bytes = span_of(bytes.ptr + size, bytes.len - size);
        if (drain(reader, trace))
            break;
        if (pieces && (state >> 40) % 16 == 0)
            resp_reader_trim(reader);
    }
    resp_reader_free(reader);
}

static void write_and_read_back(struct span bytes)
{
    struct resp_reader *reader = resp_reader_new(&limits[0]);
    struct resp_reader *again = resp_reader_new(&limits[0]);
    const struct resp_arg *args, *back;
    uint32_t count, back_count;
    const char *error;
    size_t room_len;
    memcpy(resp_reader_room(reader, bytes.len, &room_len), bytes.ptr, bytes.len);
    resp_reader_fed(reader, bytes.len);
    struct buf request = {0};
    while (resp_reader_next(reader, &args, &count, &error) == ERR_OK) {
        request.len = 0;
        resp_array(&request, count);
        for (uint32_t i = 0; i < count; i++)
            resp_bulk(&request, args[i].value);
        memcpy(resp_reader_room(again, request.len, &room_len), request.ptr, request.len);
        resp_reader_fed(again, request.len);
        enum err err = resp_reader_next(again, &back, &back_count, &error);
        ASSERT(err == ERR_OK && back_count == count);
        for (uint32_t i = 0; i < count; i++)
            ASSERT(span_equal(args[i].value, back[i].value));
        ASSERT(resp_reader_buffered(again) == 0);
    }
    buf_release(&request);
    resp_reader_free(reader);
    resp_reader_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len <= PREFIX_LEN)
        return 0;
    const struct resp_limits *chosen = &limits[bytes[0] % (sizeof limits / sizeof *limits)];
    uint64_t seed = load_u64(bytes + 1) | 1;
    struct span input = span_of(bytes + PREFIX_LEN, len - PREFIX_LEN);
    struct buf whole = {0}, pieces = {0};
    parse(input, chosen, 0, &whole);
    parse(input, chosen, seed, &pieces);
    ASSERT(span_equal(buf_span(&whole), buf_span(&pieces)));
    buf_release(&whole);
    buf_release(&pieces);
    write_and_read_back(input);
    return 0;
}
