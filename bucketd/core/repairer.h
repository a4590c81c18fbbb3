/* Damaged segments are made whole from what is left of them and from what other replicas have
 * (REPLICATION.md 6, ARCHITECTURE.md). One at a time; a segment is written anew beside the old one,
 * in order, so that no more than a chunk of it is ever in memory: its own entries where they are
 * whole and follow by the chain, fetched ones else.
 *
 * A segment that another one follows holds committed entries only, and the checkpoint behind it
 * tells what it must come to: it is exchanged while the bucket works, with its index.
 *
 * The newest one is repaired after a start, before the replica takes entries; then the process ends
 * and its next start finds a whole log. It is done when
 *   - its last idx and term are those that its marks tell: it is what was lost, or else
 *   - it equals the log of the leader of the term (or a later one), up to what that had when asked
 *     by this process: then it has all that was ever acknowledged here.
 *
 * Where neither a segment nor its neighbours tell where it begins or ends, the whole log is given
 * up: it is set aside, and this replica is fed from the beginning like one that lost its disk. */
#pragma once

#include "bucketd/core/wal.h"
#include "proto/messages.h"

struct index;
struct repairer;

struct repairer_config {
    struct wal_config wal;
    uint64_t boot;       /* of this process: a tick that echoes it was sent after this start */
    uint64_t hash_seed;  /* of indexes */
    uint64_t timeout_ns; /* without an answer for so long the next replica is asked */
    uint64_t pause_ns;   /* after all were asked in vain, or the disk was full */
};

struct repairer_callbacks {
    void *ctx;
    /* Nobody else is about to write this segment's index files. */
    bool (*may_replace)(void *ctx, uint64_t segment);
    /* Another file stands there, and no index files: whatever was known of the old one's places is
     * wrong. Takes the new one's index. */
    void (*on_replaced)(void *ctx, uint64_t segment, struct index *index);
    /* A leader is heard of, and it isn't this replica. */
    bool (*led_by_another)(void *ctx);
    /* Where this replica leads: another one should. */
    void (*give_way)(void *ctx);
};

/* env and wal are borrowed. */
struct repairer *repairer_new(const struct repairer_config *config, struct env *env,
                              struct wal *wal, const struct repairer_callbacks *callbacks);
void repairer_free(struct repairer *repairer);
/* After wal_open. */
void repairer_open(struct repairer *repairer, const struct wal_recovery *recovery);
/* Something in this segment couldn't be read for what it must be. It is looked at; the newest one
 * by a start, for which the process of a follower ends once a minute at most. */
void repairer_note(struct repairer *repairer, uint64_t segment);
void repairer_on_tick(struct repairer *repairer, uint32_t node, const struct msg_tick *tick);
void repairer_on_chunk(struct repairer *repairer, uint32_t node, const struct msg_chunk *chunk);
/* Next steps. Returns the next wanted time; UINT64_MAX: when a job has ended, or something came. */
uint64_t repairer_turn(struct repairer *repairer, uint64_t now);
/* No more steps; what runs comes to its end. */
void repairer_stop(struct repairer *repairer);
/* A job runs. */
bool repairer_busy(const struct repairer *repairer);
/* Segments that are, or may be, damaged. */
uint64_t repairer_waiting(const struct repairer *repairer);
