/* ASSERT stays on in production: a broken invariant ends the process, and the supervisor starts
 * it again from what is on disk. Input from peers, clients and disks is checked, never asserted. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#define ASSERT(expr)                                                                               \
    do {                                                                                           \
        if (__builtin_expect(!(expr), 0)) {                                                        \
            fprintf(stderr, "level=error event=assert.failed file=%s line=%d expr=\"%s\"\n",       \
                    __FILE__, __LINE__, #expr);                                                    \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
