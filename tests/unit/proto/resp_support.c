/* Feeding a request reader, and a readable account of what it gave. */
#include "tests/unit/proto/resp_support.h"

#include <check.h>
#include <stdint.h>
#include <stdlib.h>

const struct resp_limits resp_small_limits = {
    .bulk_bytes_max = 1000,
    .arguments_max = 100,
    .inline_bytes_max = 200,
    .request_bytes_max = 6000,
};
const struct resp_limits resp_large_limits = {
    .bulk_bytes_max = 512u << 20,
    .arguments_max = 1u << 20,
    .inline_bytes_max = 64u << 10,
    .request_bytes_max = 1u << 30,
};

/* Takes all there is, with a line for each result: "[count] type.kind:value …", or the error. */
void resp_drain(struct resp_reader *reader, struct buf *out)
{
    const struct resp_arg *args;
    uint32_t count;
    const char *error;
    for (;;) {
        enum err err = resp_reader_next(reader, &args, &count, &error);
        if (err == ERR_AGAIN)
            return;
        if (err == ERR_PROTOCOL) {
            buf_printf(out, "PROTOCOL %s\n", error);
            return;
        }
        if (err == ERR_INVALID) {
            buf_printf(out, "INVALID %s\n", error);
            continue;
        }
        if (err != ERR_OK)
            ck_abort_msg("%s", err_name(err));
        buf_printf(out, "[%u]", count);
        for (uint32_t i = 0; i < count; i++) {
            buf_printf(out, " %d.%s:", (int)args[i].type, args[i].kind);
            buf_append_span(out, args[i].value);
        }
        buf_printf(out, "\n");
    }
}

static bool ends_in_error(const struct buf *out)
{
    return out->len > 0 && memmem(out->ptr, out->len, "PROTOCOL ", 9) != NULL;
}

/* Feeds bytes in pieces of the sizes that `piece` yields, taking what there is after each. */
void resp_feed(struct resp_reader *reader, struct span bytes, struct buf *out,
               size_t (*piece)(void *), void *ctx)
{
    while (bytes.len > 0 && !ends_in_error(out)) {
        size_t want = piece(ctx);
        want = want < bytes.len ? want : bytes.len;
        size_t room_len;
        uint8_t *room = resp_reader_room(reader, want, &room_len);
        if (room_len < want)
            ck_abort_msg("%zu bytes of room, %zu wanted", room_len, want);
        memcpy(room, bytes.ptr, want);
        resp_reader_fed(reader, want);
        bytes = span_of(bytes.ptr + want, bytes.len - want);
        resp_drain(reader, out);
    }
}

size_t resp_whole(void *ctx)
{
    (void)ctx;
    return SIZE_MAX;
}

size_t resp_fixed(void *ctx)
{
    return *(size_t *)ctx;
}

/* The first piece has the given size, the rest comes in one. */
size_t resp_split_at(void *ctx)
{
    size_t *first = ctx, size = *first;
    *first = SIZE_MAX;
    return size;
}

size_t resp_arbitrary(void *ctx)
{
    uint64_t *state = ctx;
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return 1 + (*state >> 33) % 17;
}
