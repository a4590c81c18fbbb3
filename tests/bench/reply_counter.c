/* Counts whole RESP values: see the header. */
#include "tests/bench/reply_counter.h"

#include <stdlib.h>
#include <string.h>

static void counter_line(struct reply_counter *counter);
static void counter_end(struct reply_counter *counter);

uint64_t reply_counter_feed(struct reply_counter *counter, const char *bytes, size_t len)
{
    uint64_t before = counter->replies;

    while (len > 0) {
        if (counter->skip > 0) {
            size_t part = counter->skip < len ? (size_t)counter->skip : len;
            counter->skip -= part;
            bytes += part;
            len -= part;
            if (counter->skip == 0)
                counter_end(counter);
            continue;
        }
        const char *end = memchr(bytes, '\n', len);
        size_t part = end ? (size_t)(end - bytes) + 1 : len;
        size_t room = REPLY_LINE_MAX - 1 - counter->line_len;
        size_t kept = part < room ? part : room;
        memcpy(counter->line + counter->line_len, bytes, kept);
        counter->line_len += (unsigned)kept;
        bytes += part;
        len -= part;
        if (end)
            counter_line(counter);
    }
    return counter->replies - before;
}

/* A whole header line: begins a value, or is one. */
static void counter_line(struct reply_counter *counter)
{
    char *line = counter->line;
    line[counter->line_len] = 0;
    counter->line_len = 0;

    if (counter->owed == 0) {
        counter->owed = 1;
        counter->push = line[0] == '>';
        counter->events_before = counter->events;
        if (line[0] == '-') {
            counter->errors++;
            if (counter->error[0] == 0)
                memcpy(counter->error, line, REPLY_LINE_MAX);
        }
    }
    counter->owed--;
    switch (line[0]) {
    case '*':
    case '>':
    case '~':
    case '%': {
        long long count = strtoll(line + 1, NULL, 10);
        if (count > 0)
            counter->owed += (uint64_t)count * (line[0] == '%' ? 2 : 1);
        break;
    }
    case '$':
    case '=':
    case '!': {
        long long count = strtoll(line + 1, NULL, 10);
        if (count >= 0)
            counter->skip = (uint64_t)count + 2;
        break;
    }
    case '+':
        if (strncmp(line, "+event_id\r", 10) == 0)
            counter->events++;
        break;
    default:
        break;
    }
    if (counter->skip == 0)
        counter_end(counter);
}

static void counter_end(struct reply_counter *counter)
{
    if (counter->owed > 0)
        return;
    if (!counter->push)
        counter->replies++;
    else if (counter->events > counter->events_before)
        counter->messages++;
}
