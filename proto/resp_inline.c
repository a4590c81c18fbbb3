/* Inline commands: words and quotes, decoded in place. */
#include "proto/resp_inline.h"

static inline bool is_blank(uint8_t c);
static bool unquote(uint8_t *line, size_t len, size_t *at, size_t *to);
static uint8_t unescape(const uint8_t *line, size_t len, size_t *at);
static int hex_digit(uint8_t c);

enum err resp_inline_next(uint8_t *line, size_t len, size_t *at, struct span *ret_word)
{
    while (*at < len && is_blank(line[*at]))
        ++*at;
    if (*at == len)
        return ERR_NOTFOUND;
    size_t first = *at;
    size_t to = first;
    while (*at < len && !is_blank(line[*at])) {
        if (line[*at] != '"' && line[*at] != '\'')
            line[to++] = line[(*at)++];
        else if (!unquote(line, len, at, &to))
            return ERR_PROTOCOL;
    }
    *ret_word = span_of(line + first, to - first);
    return ERR_OK;
}

static inline bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\0';
}

/* Moves what the quotes at *at enclose to *to, and both positions behind it. */
static bool unquote(uint8_t *line, size_t len, size_t *at, size_t *to)
{
    uint8_t quote = line[(*at)++];
    while (*at < len && line[*at] != quote) {
        bool escaped = line[*at] == '\\' && *at + 1 < len;
        if (escaped && quote == '"')
            line[(*to)++] = unescape(line, len, at);
        else if (escaped && line[*at + 1] == '\'') {
            line[(*to)++] = '\'';
            *at += 2;
        } else
            line[(*to)++] = line[(*at)++];
    }
    if (*at == len)
        return false;
    ++*at;
    return *at == len || is_blank(line[*at]);
}

/* The byte that the backslash at *at stands for with what follows; at least one byte does. */
static uint8_t unescape(const uint8_t *line, size_t len, size_t *at)
{
    uint8_t c = line[*at + 1];
    *at += 2;
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'b':
        return '\b';
    case 'a':
        return '\a';
    case 'x':
        if (len - *at >= 2) {
            int high = hex_digit(line[*at]);
            int low = hex_digit(line[*at + 1]);
            if (high >= 0 && low >= 0) {
                *at += 2;
                return (uint8_t)(high << 4 | low);
            }
        }
        return c;
    default:
        return c;
    }
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}
