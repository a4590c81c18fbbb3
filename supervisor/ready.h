/* Whether a node is ready for clients, and what it waits for: what `sierradb status` says of it,
 * and health checks rest on. Pure. */
#pragma once

#include "supervisor/supervisor.h"

#define READY_WHY_LEN 80

/* What a process that works has told of itself. */
struct ready_word {
    bool answers;    /* not silent for long */
    bool replicated; /* one replica among several; the others hold only then */
    bool told;       /* since its start */
    bool level;      /* it was up to date since its start, and so answers reads or knows who does */
    bool stale;      /* no quorum in sight for long: it answers reads from what it has */
    bool damaged;
};

enum readiness {
    READY,
    READY_SOON,    /* it will be by itself: the node isn't ready before */
    READY_NOT_SOON /* down for good, or damaged: no reason to take the node's other buckets away */
};

/* why: what it waits for; empty where it's READY. */
enum readiness ready_process(const struct supervised *process, const struct ready_word *word,
                             char why[static READY_WHY_LEN]);
