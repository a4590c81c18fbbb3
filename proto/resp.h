/* RESP2 and RESP3: a request reader and a reply writer. Pure: bytes in, values out; no I/O.
 *
 * Reader: resumable at every byte, no recursion, no allocation in proportion to an announced
 * length, and the work for a request is linear in its bytes however they are cut. Requests are
 * arrays of bulk strings (simple strings, numbers, verbatim strings, booleans, nulls, doubles and
 * big numbers as arguments too), or inline lines. */
#pragma once

#include "common/buf.h"
#include "common/err.h"

enum resp_arg_type {
    RESP_STRING, /* bulk, simple, verbatim (txt), big number, inline word */
    RESP_NUMBER, /* :n ; value is its decimal text */
    RESP_NULL,
    RESP_BOOLEAN, /* value is "t" or "f" */
    RESP_DOUBLE,  /* value is its text */
    RESP_OTHER,   /* an aggregate inside a request: value empty, `kind` names it */
};

struct resp_arg {
    struct span value; /* view into the input buffer */
    enum resp_arg_type type;
    const char *kind; /* "string", "number", "null", "boolean", "double", "array", "map", ... for
                         error texts */
};

struct resp_limits {
    uint64_t bulk_bytes_max; /* one argument */
    uint32_t arguments_max;
    uint32_t inline_bytes_max;
    uint64_t request_bytes_max; /* all of a request */
};

struct resp_reader;

struct resp_reader *resp_reader_new(const struct resp_limits *limits);
void resp_reader_free(struct resp_reader *reader);
void resp_reader_set_limits(struct resp_reader *reader, const struct resp_limits *limits);

/* Where to read bytes into: at least `want` bytes of room; then tell how many came. Invalidates
 * earlier args. */
uint8_t *resp_reader_room(struct resp_reader *reader, size_t want, size_t *ret_len);
void resp_reader_fed(struct resp_reader *reader, size_t len);

/* The next whole request: ERR_OK and its arguments (valid until the next call of any resp_reader_
 * function); *ret_count 0 for an empty line (ignore it). ERR_AGAIN: more bytes are needed.
 * ERR_PROTOCOL: the stream can't be trusted any more; *ret_error is the whole error line without
 * the '-' ("ERR Protocol error: invalid bulk length"); reply it and close. ERR_INVALID: this
 * request is refused with *ret_error but was skipped whole; the connection lives on (an aggregate
 * where a command was expected). */
enum err resp_reader_next(struct resp_reader *reader, const struct resp_arg **ret_args,
                          uint32_t *ret_count, const char **ret_error) MUST_CHECK;
/* Bytes that are buffered and not yet consumed. */
size_t resp_reader_buffered(const struct resp_reader *reader);
/* Gives all memory back where nothing is buffered: for a connection that has gone quiet.
 * Invalidates args. */
void resp_reader_trim(struct resp_reader *reader);

/* --- writer; proto is 2 or 3 --- */
void resp_simple(struct buf *out, struct span text); /* CR and LF become spaces */
void resp_simple_str(struct buf *out, const char *text);
void resp_error(struct buf *out, const char *code,
                struct span text); /* "-CODE text"; CR and LF become spaces */
void resp_errorf(struct buf *out, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void resp_bulk(struct buf *out, struct span bytes);
void resp_bulk_str(struct buf *out, const char *text);
void resp_number(struct buf *out, int64_t value);
void resp_null(struct buf *out, int proto);
void resp_boolean(struct buf *out, int proto, bool value);
void resp_double(struct buf *out, int proto, double value);
void resp_array(struct buf *out, uint64_t count);
void resp_map(struct buf *out, int proto, uint64_t pairs);
void resp_push(struct buf *out, int proto, uint64_t count);
