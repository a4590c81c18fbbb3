/* A small table: partition -> the watermark that was seen. */
#include "netd/session.h"

#include <stdlib.h>

#include "common/assert.h"

static struct session_entry *find(const struct session *session, uint32_t partition)
{
    uint32_t mask = session->cap - 1;
    uint32_t at = (partition * 2654435761u) & mask; /* Knuth, TAOCP 6.4: multiplicative hashing */
    while (session->entries[at].partition != 0 && session->entries[at].partition != partition + 1)
        at = (at + 1) & mask;
    return &session->entries[at];
}

void session_release(struct session *session)
{
    free(session->entries);
    *session = (struct session){0};
}

uint64_t session_need(const struct session *session, uint32_t partition)
{
    return session->cap == 0 ? 0 : find(session, partition)->need;
}

void session_saw(struct session *session, uint32_t partition, uint64_t watermark)
{
    if (2 * (session->count + 1) > session->cap) {
        struct session grown = {.cap = session->cap == 0 ? 8 : 2 * session->cap,
                                .count = session->count};
        grown.entries = calloc(grown.cap, sizeof *grown.entries);
        ASSERT(grown.entries != NULL);
        for (uint32_t i = 0; i < session->cap; i++) {
            const struct session_entry *old = &session->entries[i];
            if (old->partition != 0)
                *find(&grown, old->partition - 1) = *old;
        }
        free(session->entries);
        *session = grown;
    }
    struct session_entry *entry = find(session, partition);
    session->count += entry->partition == 0;
    entry->partition = partition + 1;
    entry->need = max_u64(entry->need, watermark);
}
