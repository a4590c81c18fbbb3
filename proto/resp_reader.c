/* RESP requests: a state machine over an input buffer of its own.
 *
 *   START ──'*'──> ELEMENTS <──> BODY (a bulk's bytes are awaited)
 *     │                │
 *     └─inline line──> DONE ──next call──> START
 *
 * What is nested is counted on a small stack of levels, level 1 being the request's own array; only
 * its direct elements become arguments. A frame that is no request is walked the same way and then
 * refused.
 *
 * Linear work: all positions are kept between calls, relative to the request's first byte; a
 * header of at most 23 bytes is the longest thing ever looked at twice. */
#include "proto/resp.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/assert.h"
#include "common/limits.h"
#include "proto/resp_inline.h"

/* Capacity kept when a large request is through. */
#define INPUT_KEEP_BYTES  (64u << 10)
#define ARGUMENTS_KEEP    1024u
#define ARGUMENTS_FIRST   16u
#define NUMBER_DIGITS_MAX 19u
/* What an argument costs beside its bytes. */
#define ARGUMENT_OVERHEAD   (sizeof(struct resp_arg) + sizeof(size_t))
#define VERBATIM_PREFIX_LEN 4u /* "txt:" */

enum state { START, ELEMENTS, BODY, DONE, FAILED };

struct resp_reader {
    struct resp_limits limits;
    struct buf in;
    size_t start;   /* of the current request in `in`; the other positions are relative to it */
    size_t at;      /* parsed up to here */
    size_t scanned; /* no line end before here */
    enum state state;
    bool request; /* within a request's array: level 1 holds arguments */
    bool refused; /* within a frame that is no request */
    unsigned depth;
    uint64_t left[RESP_NESTING_MAX]; /* elements still to come at each level */
    char body_type;
    uint64_t body_len;
    struct resp_arg *args;
    size_t *offsets; /* of each argument's value */
    uint32_t args_count, args_cap;
    char error[160];
};

static void shrink_input(struct resp_reader *reader, size_t want);
static void shrink_args(struct resp_reader *reader, uint32_t keep);
static void begin_request(struct resp_reader *reader);
static enum err advance(struct resp_reader *reader);
static enum err read_start(struct resp_reader *reader);
static enum err read_inline(struct resp_reader *reader);
static void take_bulks(struct resp_reader *reader);
static enum err read_element(struct resp_reader *reader);
static enum err read_bulk_header(struct resp_reader *reader, char type);
static enum err read_aggregate(struct resp_reader *reader, char type);
static enum err read_scalar(struct resp_reader *reader, char type);
static bool scalar_is_valid(char type, struct span text);
static enum err read_body(struct resp_reader *reader);
static void settle(struct resp_reader *reader);
static enum err read_count(struct resp_reader *reader, uint64_t *ret_count, bool *ret_null,
                           size_t *ret_after);
static enum err read_line(struct resp_reader *reader, const char *what, size_t *ret_len);
static enum err check_size(struct resp_reader *reader, size_t after, uint64_t body_len);
static void take_element(struct resp_reader *reader, char type, size_t offset, size_t len);
static void add_arg(struct resp_reader *reader, enum resp_arg_type type, const char *kind,
                    size_t offset, size_t len);
static enum err fail(struct resp_reader *reader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static inline uint8_t *base_of(const struct resp_reader *reader)
{
    return reader->in.ptr + reader->start;
}

static inline size_t available(const struct resp_reader *reader)
{
    return reader->in.len - reader->start;
}

struct resp_reader *resp_reader_new(const struct resp_limits *limits)
{
    struct resp_reader *reader = calloc(1, sizeof *reader);
    ASSERT(reader != NULL);
    reader->limits = *limits;
    return reader;
}

void resp_reader_free(struct resp_reader *reader)
{
    if (reader == NULL)
        return;
    buf_release(&reader->in);
    free(reader->args);
    free(reader->offsets);
    free(reader);
}

void resp_reader_set_limits(struct resp_reader *reader, const struct resp_limits *limits)
{
    reader->limits = *limits;
}

/* Bytes are moved to the front only where at least as many were consumed since: moving costs no
 * more than reading did. */
uint8_t *resp_reader_room(struct resp_reader *reader, size_t want, size_t *ret_len)
{
    struct buf *in = &reader->in;
    if (reader->state == DONE)
        begin_request(reader);
    if (reader->start == in->len)
        in->len = reader->start = 0;
    if (in->cap > INPUT_KEEP_BYTES)
        shrink_input(reader, want);
    if (in->cap - in->len < want && reader->start >= available(reader)) {
        buf_consume(in, reader->start);
        reader->start = 0;
    }
    uint8_t *room = buf_reserve(in, want);
    *ret_len = in->cap - in->len;
    return room;
}

void resp_reader_fed(struct resp_reader *reader, size_t len)
{
    ASSERT(len <= reader->in.cap - reader->in.len);
    reader->in.len += len;
}

enum err resp_reader_next(struct resp_reader *reader, const struct resp_arg **ret_args,
                          uint32_t *ret_count, const char **ret_error)
{
    if (reader->state == DONE)
        begin_request(reader);
    enum err err = reader->state == FAILED ? ERR_PROTOCOL : advance(reader);
    if (err == ERR_OK) {
        for (uint32_t i = 0; i < reader->args_count; i++)
            reader->args[i].value.ptr = base_of(reader) + reader->offsets[i];
        *ret_args = reader->args;
        *ret_count = reader->args_count;
    } else if (err == ERR_INVALID) {
        *ret_error = "ERR expected a command as an array of bulk strings";
    } else if (err == ERR_PROTOCOL) {
        reader->state = FAILED;
        *ret_error = reader->error;
    }
    return err;
}

size_t resp_reader_buffered(const struct resp_reader *reader)
{
    return available(reader) - (reader->state == DONE ? reader->at : 0);
}

void resp_reader_trim(struct resp_reader *reader)
{
    if (reader->state == DONE)
        begin_request(reader);
    if (available(reader) > 0)
        return;
    buf_release(&reader->in);
    reader->start = 0;
    shrink_args(reader, 0);
}

/* A large request is through: what little is left moves to a smaller block. */
static void shrink_input(struct resp_reader *reader, size_t want)
{
    size_t live = available(reader);
    if (live + want > reader->in.cap / 4)
        return;
    struct buf smaller = {0};
    buf_reserve(&smaller, live + want > INPUT_KEEP_BYTES ? live + want : INPUT_KEEP_BYTES);
    if (live > 0)
        buf_append(&smaller, base_of(reader), live);
    buf_release(&reader->in);
    reader->in = smaller;
    reader->start = 0;
}

/* For the next request: what arguments a large one had is given back. */
static void shrink_args(struct resp_reader *reader, uint32_t keep)
{
    if (reader->args_cap <= keep)
        return;
    free(reader->args);
    free(reader->offsets);
    reader->args = NULL;
    reader->offsets = NULL;
    reader->args_cap = 0;
}

/* --- The state machine ------------------------------------------------------------------------ */

static void begin_request(struct resp_reader *reader)
{
    ASSERT(reader->at <= available(reader));
    reader->start += reader->at;
    reader->at = reader->scanned = 0;
    reader->state = START;
    reader->request = reader->refused = false;
    reader->depth = 0;
    reader->args_count = 0;
    shrink_args(reader, ARGUMENTS_KEEP);
}

static enum err advance(struct resp_reader *reader)
{
    for (;;) {
        enum err err = ERR_OK;
        switch (reader->state) {
        case START:
            err = read_start(reader);
            break;
        case ELEMENTS:
            if (reader->request && reader->depth == 1)
                take_bulks(reader);
            if (reader->state == ELEMENTS)
                err = read_element(reader);
            break;
        case BODY:
            err = read_body(reader);
            break;
        case DONE:
            return reader->refused ? ERR_INVALID : ERR_OK;
        case FAILED:
            return ERR_PROTOCOL;
        }
        if (err != ERR_OK)
            return err;
    }
}

static enum err read_start(struct resp_reader *reader)
{
    if (reader->at == available(reader))
        return ERR_AGAIN;
    char type = (char)base_of(reader)[reader->at];
    if (type == '\0' || strchr("*+-:$_#,(>~%=!|", type) == NULL)
        return read_inline(reader);
    if (type != '*') {
        reader->refused = type != '|'; /* an attribute may stand before a request */
        return read_element(reader);
    }
    uint64_t count;
    bool null;
    size_t after;
    enum err err = read_count(reader, &count, &null, &after);
    if (err != ERR_OK)
        return err;
    reader->at = after;
    reader->request = true;
    reader->depth = 1;
    reader->left[0] = count;
    settle(reader);
    return ERR_OK;
}

/* One level's elements are through: back to the level above, or the whole is done. */
static void settle(struct resp_reader *reader)
{
    reader->scanned = 0;
    while (reader->depth > 0 && reader->left[reader->depth - 1] == 0)
        reader->depth--;
    if (reader->depth > 0)
        reader->state = ELEMENTS;
    else
        reader->state = reader->request || reader->refused ? DONE : START;
}

/* The fast path: bulk strings that are wholly here. Stops before anything else, which read_element
 * then takes, or finds fault with. */
static void take_bulks(struct resp_reader *reader)
{
    const uint8_t *base = base_of(reader);
    const uint8_t *end = base + available(reader);
    while (reader->left[0] > 0) {
        const uint8_t *at = base + reader->at;
        if (end - at < 4 || *at != '$')
            return;
        uint64_t len = 0;
        const uint8_t *digit = at + 1;
        for (; digit < end && *digit >= '0' && *digit <= '9'; digit++)
            len = len * 10 + (*digit - '0');
        unsigned digits = (unsigned)(digit - at) - 1;
        if (digits == 0 || digits > 9 || end - digit < 2 || digit[0] != '\r' || digit[1] != '\n')
            return;
        const uint8_t *body = digit + 2;
        if (len > reader->limits.bulk_bytes_max || (uint64_t)(end - body) < len + 2)
            return;
        if (body[len] != '\r' || body[len + 1] != '\n')
            return;
        size_t after = (size_t)(body - base) + len + 2;
        if (after + (reader->args_count + 1) * ARGUMENT_OVERHEAD > reader->limits.request_bytes_max)
            return;
        add_arg(reader, RESP_STRING, "string", (size_t)(body - base), len);
        reader->at = after;
        reader->left[0]--;
    }
    settle(reader);
}

/* Takes an element of any type, or its header where more follows. */
static enum err read_element(struct resp_reader *reader)
{
    if (reader->at == available(reader))
        return ERR_AGAIN;
    uint8_t type = base_of(reader)[reader->at];
    switch (type) {
    case '$':
    case '=':
    case '!':
        return read_bulk_header(reader, (char)type);
    case '*':
    case '~':
    case '>':
    case '%':
    case '|':
        return read_aggregate(reader, (char)type);
    case '+':
    case '-':
    case ':':
    case '(':
    case ',':
    case '#':
    case '_':
        return read_scalar(reader, (char)type);
    default:
        return fail(reader,
                    type > ' ' && type <= '~' ? "expected '$', got '%c'"
                                              : "expected '$', got '\\x%02x'",
                    type);
    }
}

/* $ bulk, = verbatim, ! error: a length, then that many bytes. */
static enum err read_bulk_header(struct resp_reader *reader, char type)
{
    uint64_t len;
    bool null;
    size_t after;
    enum err err = read_count(reader, &len, &null, &after);
    if (err != ERR_OK)
        return err;
    if ((err = check_size(reader, after, null ? 0 : len + 2)) != ERR_OK)
        return err;
    reader->at = after;
    if (null) {
        take_element(reader, '_', after, 0);
        settle(reader);
        return ERR_OK;
    }
    reader->body_type = type;
    reader->body_len = len;
    reader->state = BODY;
    return ERR_OK;
}

static enum err read_body(struct resp_reader *reader)
{
    size_t len = (size_t)reader->body_len;
    if (available(reader) - reader->at < len + 2)
        return ERR_AGAIN;
    const uint8_t *body = base_of(reader) + reader->at;
    if (body[len] != '\r' || body[len + 1] != '\n')
        return fail(reader, "expected CRLF behind a bulk of %zu bytes", len);
    size_t prefix = 0;
    if (reader->body_type == '=') {
        if (len < VERBATIM_PREFIX_LEN || body[VERBATIM_PREFIX_LEN - 1] != ':')
            return fail(reader, "invalid verbatim string: expected a format like 'txt:' first");
        prefix = VERBATIM_PREFIX_LEN;
    }
    take_element(reader, reader->body_type, reader->at + prefix, len - prefix);
    reader->at += len + 2;
    settle(reader);
    return ERR_OK;
}

/* * array, ~ set, > push, % map, | attribute: a count of elements, or of pairs. */
static enum err read_aggregate(struct resp_reader *reader, char type)
{
    uint64_t count;
    bool null;
    size_t after;
    enum err err = read_count(reader, &count, &null, &after);
    if (err != ERR_OK)
        return err;
    if (reader->depth == RESP_NESTING_MAX)
        return fail(reader, "nesting deeper than %u", RESP_NESTING_MAX);
    if ((err = check_size(reader, after, 0)) != ERR_OK)
        return err;
    reader->at = after;
    if (null)
        take_element(reader, '_', after, 0);
    else if (type != '|') /* an attribute describes the element behind it, and is none itself */
        take_element(reader, type, after, 0);
    reader->left[reader->depth++] = type == '%' || type == '|' ? 2 * count : count;
    settle(reader);
    return ERR_OK;
}

/* The types of one line. */
static enum err read_scalar(struct resp_reader *reader, char type)
{
    size_t len = 0;
    enum err err = read_line(reader, "simple value", &len);
    if (err != ERR_OK)
        return err;
    struct span text = span_of(base_of(reader) + reader->at + 1, len - 1);
    if (text.len == 0 || text.ptr[text.len - 1] != '\r')
        return fail(reader, "expected CRLF at the end of a line");
    text.len--;
    if (!scalar_is_valid(type, text))
        return fail(reader, "invalid value of type '%c'", type);
    if ((err = check_size(reader, reader->at + len + 1, 0)) != ERR_OK)
        return err;
    size_t plus = type == ':' && text.ptr[0] == '+'; /* a decimal text has none */
    take_element(reader, type, reader->at + 1 + plus, text.len - plus);
    reader->at += len + 1;
    settle(reader);
    return ERR_OK;
}

static bool scalar_is_valid(char type, struct span text)
{
    if (type == '+' || type == '-')
        return true;
    if (type == '_')
        return text.len == 0;
    if (type == '#')
        return text.len == 1 && (text.ptr[0] == 't' || text.ptr[0] == 'f');
    const char *allowed = type == ',' ? "0123456789.eE+-infa" : "0123456789";
    size_t first = text.len > 0 && (text.ptr[0] == '-' || text.ptr[0] == '+');
    if (text.len == first || (type == ':' && text.len - first > NUMBER_DIGITS_MAX))
        return false;
    for (size_t i = first; i < text.len; i++)
        if (text.ptr[i] == '\0' || strchr(allowed, text.ptr[i]) == NULL)
            return false;
    return true;
}

/* --- Inline commands -------------------------------------------------------------------------- */

static enum err read_inline(struct resp_reader *reader)
{
    size_t len = 0;
    enum err err = read_line(reader, "inline request", &len);
    if (err != ERR_OK)
        return err;
    uint8_t *line = base_of(reader) + reader->at;
    size_t at = 0;
    struct span word;
    while ((err = resp_inline_next(line, len, &at, &word)) == ERR_OK)
        add_arg(reader, RESP_STRING, "string", (size_t)(word.ptr - base_of(reader)), word.len);
    if (err != ERR_NOTFOUND)
        return fail(reader, "unbalanced quotes in request");
    reader->at += len + 1;
    reader->state = DONE;
    return ERR_OK;
}

/* --- Tokens ----------------------------------------------------------------------------------- */

/* The number behind the type byte at `at`, with its CRLF: a bulk's length or an aggregate's count,
 * within its limit. *ret_after is the position behind. -1 is a null, of a bulk or an array. */
static enum err read_count(struct resp_reader *reader, uint64_t *ret_count, bool *ret_null,
                           size_t *ret_after)
{
    const uint8_t *end = base_of(reader) + available(reader);
    const uint8_t *at = base_of(reader) + reader->at;
    const bool bulk = *at == '$' || *at == '=' || *at == '!';
    const char *const what = bulk ? "bulk" : "multibulk";
    bool null = end - at > 1 && at[1] == '-' && (*at == '$' || *at == '*');
    const uint8_t *first = at + 1 + null;
    uint64_t count = 0;
    if (first < end && *first == '?')
        return fail(reader, "streamed strings and aggregates are not supported");
    for (at = first; at < end && *at >= '0' && *at <= '9'; at++) {
        if ((unsigned)(at - first) == NUMBER_DIGITS_MAX)
            return fail(reader, "invalid %s length", what);
        count = count * 10 + (*at - '0');
        if (null && count != 1)
            return fail(reader, "invalid %s length", what);
    }
    if (at < end && (at == first || *at != '\r'))
        return fail(reader, "invalid %s length", what);
    if (end - at < 2)
        return ERR_AGAIN;
    if (at[1] != '\n')
        return fail(reader, "invalid %s length", what);
    if (bulk && count > reader->limits.bulk_bytes_max)
        return fail(reader, "bulk of %" PRIu64 " bytes exceeds the limit of %" PRIu64 " bytes",
                    count, reader->limits.bulk_bytes_max);
    if (!bulk && count > reader->limits.arguments_max)
        return fail(reader, "invalid multibulk length: %" PRIu64 " exceeds the limit of %u", count,
                    reader->limits.arguments_max);
    *ret_count = null ? 0 : count;
    *ret_null = null;
    *ret_after = (size_t)(at + 2 - base_of(reader));
    return ERR_OK;
}

/* Looks for the end of the line that starts at `at`: its length without the LF. */
static enum err read_line(struct resp_reader *reader, const char *what, size_t *ret_len)
{
    const uint8_t *line = base_of(reader) + reader->at;
    size_t len = available(reader) - reader->at;
    size_t from = reader->scanned > reader->at ? reader->scanned - reader->at : 0;
    const uint8_t *lf = len > from ? memchr(line + from, '\n', len - from) : NULL;
    if (lf != NULL)
        len = (size_t)(lf - line);
    if (len > reader->limits.inline_bytes_max)
        return fail(reader, "too big %s: the limit is %u bytes", what,
                    reader->limits.inline_bytes_max);
    if (lf == NULL) {
        reader->scanned = reader->at + len;
        return ERR_AGAIN;
    }
    *ret_len = len;
    return ERR_OK;
}

/* --- Arguments -------------------------------------------------------------------------------- */

/* Refuses a request above its limit; the element read now ends body_len bytes behind `after`. */
static enum err check_size(struct resp_reader *reader, size_t after, uint64_t body_len)
{
    uint64_t limit = reader->limits.request_bytes_max;
    uint64_t size = after + body_len + (reader->args_count + 1) * ARGUMENT_OVERHEAD;
    return size <= limit ? ERR_OK
                         : fail(reader, "request exceeds the limit of %" PRIu64 " bytes", limit);
}

/* What an element of each type is as an argument. */
static const struct {
    char type;
    enum resp_arg_type arg;
    const char *kind;
} arg_types[] = {
    {'$', RESP_STRING, "string"},     {'+', RESP_STRING, "string"}, {'=', RESP_STRING, "string"},
    {'(', RESP_STRING, "big number"}, {':', RESP_NUMBER, "number"}, {',', RESP_DOUBLE, "double"},
    {'#', RESP_BOOLEAN, "boolean"},   {'_', RESP_NULL, "null"},     {'*', RESP_OTHER, "array"},
    {'%', RESP_OTHER, "map"},         {'~', RESP_OTHER, "set"},     {'>', RESP_OTHER, "push"},
    {'-', RESP_OTHER, "error"},       {'!', RESP_OTHER, "error"},
};

/* An element of the current level was read: on the request's own level it is an argument. */
static void take_element(struct resp_reader *reader, char type, size_t offset, size_t len)
{
    if (reader->depth == 0)
        return;
    ASSERT(reader->left[reader->depth - 1] > 0);
    reader->left[reader->depth - 1]--;
    if (!reader->request || reader->depth > 1)
        return;
    unsigned row = 0;
    while (arg_types[row].type != type)
        ASSERT(++row < sizeof arg_types / sizeof *arg_types);
    enum resp_arg_type arg = arg_types[row].arg;
    bool empty = arg == RESP_NULL || arg == RESP_OTHER;
    add_arg(reader, arg, arg_types[row].kind, offset, empty ? 0 : len);
}

/* The arrays grow as arguments arrive, whatever number was announced. */
static void add_arg(struct resp_reader *reader, enum resp_arg_type type, const char *kind,
                    size_t offset, size_t len)
{
    if (reader->args_count == reader->args_cap) {
        uint32_t cap = reader->args_cap == 0 ? ARGUMENTS_FIRST : 2 * reader->args_cap;
        struct resp_arg *args = realloc(reader->args, cap * sizeof *args);
        ASSERT(args != NULL);
        reader->args = args;
        size_t *offsets = realloc(reader->offsets, cap * sizeof *offsets);
        ASSERT(offsets != NULL);
        reader->offsets = offsets;
        reader->args_cap = cap;
    }
    reader->args[reader->args_count] =
        (struct resp_arg){.value = {NULL, len}, .type = type, .kind = kind};
    reader->offsets[reader->args_count++] = offset;
}

static enum err fail(struct resp_reader *reader, const char *format, ...)
{
    ASSERT(format != NULL);
    static const char prefix[] = "ERR Protocol error: ";
    memcpy(reader->error, prefix, sizeof prefix);
    va_list args;
    va_start(args, format);
    vsnprintf(reader->error + sizeof prefix - 1, sizeof reader->error - sizeof prefix + 1, format,
              args);
    va_end(args);
    return ERR_PROTOCOL;
}
