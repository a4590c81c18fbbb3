/* What one connection has seen of each partition: its own acknowledged events and the watermarks of
 * its answers. A later read by it never sees less, whichever replica answers (REPLICATION.md 5.7).
 * Pure. */
#pragma once

#include "common/bytes.h"

struct session_entry {
    uint32_t partition; /* + 1; 0: empty */
    uint64_t need;
};

/* Zeroed: empty. */
struct session {
    struct session_entry *entries; /* open addressing, cap a power of two */
    uint32_t cap, count;
};

void session_release(struct session *session);
/* Its reads of the partition need this watermark at least. */
uint64_t session_need(const struct session *session, uint32_t partition);
void session_saw(struct session *session, uint32_t partition, uint64_t watermark);
