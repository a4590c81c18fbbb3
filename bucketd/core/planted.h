/* Bugs planted on purpose, in the simulator's build only: each must be found (REPLICATION.md 10).
 * Elsewhere PLANTED is false, and the compiler drops what depends on it. */
#pragma once

enum planted {
    PLANT_NONE,
    PLANT_ACK_BEFORE_SYNC,      /* a follower acknowledges entries that aren't durable */
    PLANT_GRANT_BEFORE_SYNC,    /* a vote is sent before it is durable */
    PLANT_COMMIT_BY_LAST_IDX,   /* a follower commits up to its last idx, verified or not */
    PLANT_COMMIT_OLD_TERM,      /* a leader commits an older term's entry by counting replicas */
    PLANT_NO_NOOP,              /* a leader begins its term without an entry of its own */
    PLANT_NO_PREV_CHECK,        /* a follower doesn't compare prev_term and chain */
    PLANT_CUT_ON_SHORT_APPEND,  /* a short, late APPEND cuts a longer matching tail */
    PLANT_CONFLICT_BEFORE_COMMIT, /* a refusal that rests on uncommitted events is told at once */
    PLANT_WATERMARK_INCLUSIVE,  /* the first uncommitted event is readable */
    PLANT_ROT_AS_TORN,          /* recovery cuts synced data that is damaged */
    PLANT_READY_TOO_EARLY,      /* a restarted replica answers reads at once */
    PLANT_EMPTY_DISK_VOTES,     /* an empty disk goes on under the old generation */
    PLANT_OFFSET_WITHOUT_SEGMENT, /* sync progress compared as an offset, whatever the segment */
    PLANT_COUNT
};

#ifdef PLANTED_BUGS
#define PLANTED(config, bug) ((config)->planted == (int)(bug))
#else
#define PLANTED(config, bug) ((void)(config), false)
#endif
