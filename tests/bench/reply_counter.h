/* Counts whole RESP values in a stream of bytes without keeping them: replies, pushes, errors,
 * and how many events they hold. Resumable at every byte; one counter of values still owed takes
 * the place of a stack. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPLY_LINE_MAX 128u

struct reply_counter {
    uint64_t replies;            /* values that are no push, errors included */
    uint64_t errors;
    uint64_t messages;           /* pushes with an event */
    uint64_t events;             /* event maps, in replies and pushes */
    char error[REPLY_LINE_MAX];  /* the first error's text */

    uint64_t owed;               /* values until the one begun is whole */
    uint64_t skip;               /* bytes left of a bulk string */
    uint64_t events_before;      /* `events` when the value began */
    bool push;
    unsigned line_len;
    char line[REPLY_LINE_MAX];   /* the header line, cut to fit */
};

/* Takes bytes in; returns how many replies (no pushes) became whole. */
uint64_t reply_counter_feed(struct reply_counter *counter, const char *bytes, size_t len);
