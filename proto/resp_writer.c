/* RESP replies: each function appends one element to the output buffer. */
#include "proto/resp.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/assert.h"

/* Digits of the largest 64-bit number, and a sign. */
#define NUMBER_LEN_MAX 20u
/* A type byte, a number and CRLF. */
#define HEADER_LEN_MAX (1 + NUMBER_LEN_MAX + 2)
/* Sign, 17 digits, point, exponent with its sign and three digits, NUL. */
#define DOUBLE_LEN_MAX 32u

static uint8_t *put_header(uint8_t *at, char type, uint64_t value);
static uint8_t *put_crlf(uint8_t *at);
static void append_header(struct buf *out, char type, uint64_t value);
static void append_line(struct buf *out, char first, struct span text);
static void replace_bytes(uint8_t *bytes, size_t len, uint8_t from, uint8_t to);
static unsigned format_double(char text[static DOUBLE_LEN_MAX], double value);

void resp_simple(struct buf *out, struct span text)
{
    append_line(out, '+', text);
}

void resp_simple_str(struct buf *out, const char *text)
{
    resp_simple(out, span_str(text));
}

void resp_error(struct buf *out, const char *code, struct span text)
{
    buf_append(out, "-", 1);
    buf_append_span(out, span_str(code));
    append_line(out, ' ', text);
}

void resp_errorf(struct buf *out, const char *code, const char *format, ...)
{
    ASSERT(format != NULL);
    va_list args;
    va_start(args, format);
    char *text;
    int len = vasprintf(&text, format, args);
    va_end(args);
    ASSERT(len >= 0);
    resp_error(out, code, span_of(text, (size_t)len));
    free(text);
}

void resp_bulk(struct buf *out, struct span bytes)
{
    uint8_t *start = buf_reserve(out, HEADER_LEN_MAX + bytes.len + 2);
    uint8_t *at = put_header(start, '$', bytes.len);
    if (bytes.len > 0)
        memcpy(at, bytes.ptr, bytes.len);
    at = put_crlf(at + bytes.len);
    out->len += (size_t)(at - start);
}

void resp_bulk_str(struct buf *out, const char *text)
{
    resp_bulk(out, span_str(text));
}

void resp_number(struct buf *out, int64_t value)
{
    if (value >= 0) {
        append_header(out, ':', (uint64_t)value);
        return;
    }
    buf_append(out, ":", 1);
    append_header(out, '-', 0 - (uint64_t)value);
}

void resp_null(struct buf *out, int proto)
{
    if (proto >= 3)
        buf_append(out, "_\r\n", 3);
    else
        buf_append(out, "$-1\r\n", 5);
}

void resp_boolean(struct buf *out, int proto, bool value)
{
    if (proto >= 3)
        buf_append(out, value ? "#t\r\n" : "#f\r\n", 4);
    else
        buf_append(out, value ? ":1\r\n" : ":0\r\n", 4);
}

void resp_double(struct buf *out, int proto, double value)
{
    char text[DOUBLE_LEN_MAX];
    struct span span = span_of(text, format_double(text, value));
    if (proto < 3) {
        resp_bulk(out, span);
        return;
    }
    append_line(out, ',', span);
}

void resp_array(struct buf *out, uint64_t count)
{
    append_header(out, '*', count);
}

void resp_map(struct buf *out, int proto, uint64_t pairs)
{
    if (proto >= 3)
        append_header(out, '%', pairs);
    else
        append_header(out, '*', 2 * pairs);
}

void resp_push(struct buf *out, int proto, uint64_t count)
{
    append_header(out, proto >= 3 ? '>' : '*', count);
}

/* Writes the type byte, the number and CRLF; returns the place behind them. */
static uint8_t *put_header(uint8_t *at, char type, uint64_t value)
{
    uint8_t digits[NUMBER_LEN_MAX];
    unsigned first = NUMBER_LEN_MAX;
    do {
        digits[--first] = (uint8_t)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    *at++ = (uint8_t)type;
    unsigned len = NUMBER_LEN_MAX - first;
    memcpy(at, digits + first, len);
    return put_crlf(at + len);
}

static uint8_t *put_crlf(uint8_t *at)
{
    memcpy(at, "\r\n", 2);
    return at + 2;
}

static void append_header(struct buf *out, char type, uint64_t value)
{
    uint8_t *start = buf_reserve(out, HEADER_LEN_MAX);
    out->len += (size_t)(put_header(start, type, value) - start);
}

/* A byte, the text with spaces for CR and LF (which would end the line early), and CRLF. */
static void append_line(struct buf *out, char first, struct span text)
{
    uint8_t *at = buf_extend(out, 1 + text.len + 2);
    *at++ = (uint8_t)first;
    if (text.len > 0) {
        memcpy(at, text.ptr, text.len);
        replace_bytes(at, text.len, '\r', ' ');
        replace_bytes(at, text.len, '\n', ' ');
    }
    put_crlf(at + text.len);
}

static void replace_bytes(uint8_t *bytes, size_t len, uint8_t from, uint8_t to)
{
    const uint8_t *end = bytes + len;
    while ((bytes = memchr(bytes, from, (size_t)(end - bytes))) != NULL)
        *bytes++ = to;
}

/* The shortest of 15 to 17 digits that reads back as the same number. */
static unsigned format_double(char text[static DOUBLE_LEN_MAX], double value)
{
    int len;
    if (isnan(value))
        len = snprintf(text, DOUBLE_LEN_MAX, "nan");
    else if (isinf(value))
        len = snprintf(text, DOUBLE_LEN_MAX, value > 0 ? "inf" : "-inf");
    else
        for (int digits = 15;; digits++) {
            len = snprintf(text, DOUBLE_LEN_MAX, "%.*g", digits, value);
            if (digits == 17 || strtod(text, NULL) == value)
                break;
        }
    ASSERT(len > 0 && (unsigned)len < DOUBLE_LEN_MAX);
    return (unsigned)len;
}
