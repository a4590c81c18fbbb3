/* Feeding a replica that lags behind what is in memory: stretches of the log are read in jobs and
 * sent in lz4 blocks, one on its way at a time: the next is read when the last is durable there
 * (REPLICATION.md 5.9). */
#include "bucketd/core/bucket_internal.h"
#include "bucketd/core/history.h"

#include <inttypes.h>
#include <lz4.h>
#include <stdlib.h>

#include "common/assert.h"

#define STRETCH_BYTES      (1u << 20)
#define COMPRESS_BYTES_MIN 1024u

/* A read for one peer. Kept beyond its end for the place it has found: the next one goes on there.
 */
struct catchup {
    struct history_read read;
    struct bucket *bucket;
    uint32_t node;
    bool running;
    struct peer *peer; /* NULL: abandoned */
    struct catchup *next;
};

static void on_read(struct job *job);
static struct catchup *idle_catchup(struct bucket *bucket, uint32_t node);
static bool still_holds(struct bucket *bucket, const struct history_read *read);
static void send_stretch(struct bucket *bucket, struct peer *peer, const struct history_read *read);

void catchup_start(struct bucket *bucket, struct peer *peer)
{
    ASSERT(peer->catchup == NULL);
    struct catchup *catchup = idle_catchup(bucket, peer->node);
    catchup->peer = peer;
    catchup->running = true;
    peer->catchup = catchup;
    struct history_read *read = &catchup->read;
    read->job.work = history_work;
    read->job.done = on_read;
    read->config = &bucket->wal_config;
    read->first_segment = bucket->segments.list[0].number;
    read->durable = wal_durable(bucket->wal);
    read->from_idx = peer->next;
    read->to_idx = wal_durable_idx(bucket->wal);
    read->bytes = STRETCH_BYTES;
    bucket->env->ops->submit(bucket->env, &read->job);
}

void catchup_abandon(struct peer *peer)
{
    if (peer->catchup != NULL)
        peer->catchup->peer = NULL;
    peer->catchup = NULL;
}

bool catchup_busy(const struct bucket *bucket)
{
    bool busy = false;
    for (const struct catchup *at = bucket->replica.catchups; at != NULL; at = at->next)
        busy |= at->running;
    return busy;
}

void catchup_release(struct bucket *bucket)
{
    while (bucket->replica.catchups != NULL) {
        struct catchup *catchup = bucket->replica.catchups;
        bucket->replica.catchups = catchup->next;
        if (catchup->peer != NULL)
            catchup->peer->catchup = NULL;
        history_release(&catchup->read);
        free(catchup);
    }
}

static struct catchup *idle_catchup(struct bucket *bucket, uint32_t node)
{
    struct replica *replica = &bucket->replica;
    for (struct catchup *at = replica->catchups; at != NULL; at = at->next) {
        if (at->node == node && !at->running)
            return at;
    }
    struct catchup *catchup = calloc(1, sizeof *catchup);
    ASSERT(catchup != NULL);
    history_init(&catchup->read, &bucket->salt);
    catchup->bucket = bucket;
    catchup->node = node;
    catchup->next = replica->catchups;
    replica->catchups = catchup;
    return catchup;
}

static void on_read(struct job *job)
{
    struct catchup *catchup = (struct catchup *)job;
    struct bucket *bucket = catchup->bucket;
    struct peer *peer = catchup->peer;
    struct history_read *read = &catchup->read;
    catchup->running = false;
    catchup->peer = NULL;
    if (peer != NULL) {
        peer->catchup = NULL;
        peer->probing = true; /* the next try when this one is answered, or has got lost */
        peer->sent_ns = bucket->env->ops->now_ns(bucket->env);
        if (read->err == ERR_OK && still_holds(bucket, read))
            send_stretch(bucket, peer, read);
        else if (read->err == ERR_CORRUPT || read->err == ERR_IO)
            repair_note(bucket, read->damaged_segment);
        else if (read->err != ERR_OK && read->err != ERR_NOTFOUND)
            log_warn(bucket->env->log, "catchup.read_failed", "node=%u idx=%" PRIu64 " error=%s",
                     peer->node, read->from_idx, err_name(read->err));
    }
    buf_release(&read->entries);
}

/* What was read may have been cut since, while this replica didn't lead. */
static bool still_holds(struct bucket *bucket, const struct history_read *read)
{
    uint64_t term, chain;
    if (read->last_idx <= wal_commit_idx(bucket->wal))
        return true;
    return wal_point(bucket->wal, read->last_idx, &term, &chain) && chain == read->last_chain;
}

static void send_stretch(struct bucket *bucket, struct peer *peer, const struct history_read *read)
{
    struct msg_entries m = {.prev_idx = read->from_idx - 1,
                            .prev_term = read->prev_term,
                            .prev_chain = read->prev_chain,
                            .probe = true,
                            .count = read->count,
                            .entries = buf_span(&read->entries)};
    struct buf *packed = &bucket->replica.raw;
    int room = LZ4_compressBound((int)m.entries.len);
    packed->len = 0;
    if (m.entries.len >= COMPRESS_BYTES_MIN) {
        int len = LZ4_compress_default((const char *)m.entries.ptr,
                                       (char *)buf_reserve(packed, (size_t)room),
                                       (int)m.entries.len, room);
        if (len > 0 && (size_t)len < m.entries.len) {
            m.raw_bytes = m.entries.len;
            m.entries = span_of(packed->ptr, (size_t)len);
        }
    }
    replicate_send(bucket, peer, &m);
}

_Static_assert(offsetof(struct catchup, read) == 0 && offsetof(struct history_read, job) == 0,
               "a job is its catchup");
