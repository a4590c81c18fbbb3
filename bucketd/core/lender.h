/* Answers other replicas that repair damage: entries that are committed, or any durable ones where
 * this replica leads; from memory, else from the files, in jobs. */
#pragma once

#include "bucketd/core/recent.h"
#include "bucketd/core/wal.h"
#include "proto/messages.h"

struct lender;

struct lender_callbacks {
    void *ctx;
    bool (*leads)(void *ctx);
    /* What was to be lent is damaged here, too; may be NULL. */
    void (*on_damage)(void *ctx, uint64_t segment);
};

/* env and wal are borrowed; `salt` is the bucket's. */
struct lender *lender_new(const struct format_salt *salt, struct env *env, struct wal *wal,
                          const struct lender_callbacks *callbacks);
void lender_free(struct lender *lender);
/* first_segment: the oldest that exists. */
void lender_on_fetch(struct lender *lender, uint32_t node, const struct msg_fetch *fetch,
                     const struct recent *recent, uint64_t first_segment);
/* A job runs. */
bool lender_busy(const struct lender *lender);
