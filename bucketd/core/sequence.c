/* The order of appends across leader changes (REPLICATION.md 5.6): each sender numbers its
 * unanswered appends without holes; after an outcome that it doesn't know it begins a new epoch
 * and sends them again from the oldest on, numbered from 0. So what came late of an older epoch, or
 * overtook what was lost, isn't taken. Known only while this replica leads. */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>

#include "common/assert.h"

/* Senders are processes, one for each node and its last few starts. */
#define ORIGINS_MAX 1024u

static struct origin *find(const struct bucket *bucket, uint64_t id)
{
    const struct replica *replica = &bucket->replica;
    for (uint32_t i = 0; i < replica->origins_len; i++) {
        if (replica->origins[i].id == id)
            return &replica->origins[i];
    }
    return NULL;
}

enum err sequence_check(const struct bucket *bucket, const struct msg_append_req *req)
{
    if (req->origin == 0)
        return ERR_OK;
    const struct origin *origin = find(bucket, req->origin);
    /* An epoch is taken from its beginning: what came before may have met no leader here. */
    uint64_t next = origin != NULL && req->epoch == origin->epoch ? origin->next : 0;
    return !sequence_is_broken(bucket, req) && req->number == next ? ERR_OK : ERR_ORDER;
}

void sequence_take(struct bucket *bucket, const struct msg_append_req *req)
{
    struct replica *replica = &bucket->replica;
    if (req->origin == 0)
        return;
    struct origin *origin = find(bucket, req->origin);
    if (origin == NULL && replica->origins_len == ORIGINS_MAX) {
        /* The oldest is a process that has ended long ago. */
        memmove(replica->origins, replica->origins + 1, (ORIGINS_MAX - 1) * sizeof *origin);
        origin = &replica->origins[ORIGINS_MAX - 1];
    } else if (origin == NULL) {
        replica->origins =
            realloc(replica->origins, (replica->origins_len + 1) * sizeof *replica->origins);
        ASSERT(replica->origins != NULL);
        origin = &replica->origins[replica->origins_len++];
    }
    *origin = (struct origin){.id = req->origin, .epoch = req->epoch, .next = req->number + 1};
}

void sequence_break(struct bucket *bucket, const struct msg_append_req *req)
{
    struct origin *origin = req->origin == 0 ? NULL : find(bucket, req->origin);
    if (origin != NULL && origin->epoch == req->epoch)
        origin->broken = true;
}

bool sequence_is_broken(const struct bucket *bucket, const struct msg_append_req *req)
{
    const struct origin *origin = req->origin == 0 ? NULL : find(bucket, req->origin);
    return origin != NULL &&
           (req->epoch < origin->epoch || (req->epoch == origin->epoch && origin->broken));
}

void sequence_forget(struct bucket *bucket)
{
    bucket->replica.origins_len = 0;
}
