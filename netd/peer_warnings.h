/* Warnings about frames that weren't believed: one for each source and reason a minute, with the
 * number of those that were kept quiet, however many frames come from however many addresses.
 * Pure: the log is the caller's. */
#pragma once

#include "netd/peer_frame.h"

#define PEER_WARNING_MS   60000u
#define PEER_WARNINGS_MAX 64u
#define PEER_WARNING_NAME 48u

struct peer_warning {
    char source[PEER_WARNING_NAME]; /* an address, cut to what fits */
    enum peer_refusal refusal;
    uint64_t at_ms; /* of the last warning */
    uint64_t quiet; /* since then */
};

/* Zeroed is empty. When it is full, the entry whose warning is oldest makes room. */
struct peer_warnings {
    struct peer_warning entries[PEER_WARNINGS_MAX];
    unsigned count;
    uint64_t any_ms; /* of the last warning that made another entry's room */
};

/* True: log it now; *ret_quiet were not logged since the last time. now_ms is above 0. */
bool peer_warnings_due(struct peer_warnings *warnings, const char *source,
                       enum peer_refusal refusal, uint64_t now_ms, uint64_t *ret_quiet);
