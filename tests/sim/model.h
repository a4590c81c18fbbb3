/* What the store should hold: every transaction that was ever sent, and for each partition the
 * log as far as it has shown itself by answers. A position in the log that was seen once is
 * binding for ever. */
#pragma once

#include "common/buf.h"
#include "proto/messages.h"
#include "tests/sim/prng.h"
#include "tests/sim/trace.h"

#define MODEL_STREAMS_MAX 24u
#define MODEL_TX_EVENTS_MAX 64u
#define NO_VERSION UINT64_MAX
#define NO_TX UINT32_MAX

/* What clients use as a stream: a name under a key. Two of them may share a name in one
 * partition: then the first that is stored owns it, and the other must be refused. */
struct model_stream {
    uint32_t partition;
    struct uuid key;
    char name[65];
    uint8_t name_len;
    uint32_t slot;          /* of (partition, name) */
};

/* (partition, name) as stored: its events' sequences in order of their versions. */
struct stream_log {
    uint32_t owner;         /* model_stream; valid where count > 0 */
    uint64_t *sequences;
    uint64_t count, cap;
};

struct tx_event {
    struct uuid id;
    uint32_t stream;        /* model_stream */
    enum expect expect;
    uint64_t expect_version, timestamp_ms;
    /* in tx->bytes */
    uint32_t name_at, name_len, metadata_at, metadata_len, payload_at, payload_len;
    uint64_t version;       /* NO_VERSION until an answer or the log has told it */
};

struct tx {
    uint32_t index, partition, count;
    uint64_t flags;         /* of its first sending */
    struct uuid key, id;
    struct tx_event *events;
    struct buf bytes;
    /* NO_TX, or: it has ids of that stored one with other content, and must be refused */
    uint32_t copy_of;
    bool invalid;           /* must be refused whatever is stored */
    bool possible;          /* was delivered, and no answer says that it isn't stored */
    bool refused;           /* finally */
    bool placed, acked;
    uint64_t first_seq;     /* where placed */
    uint64_t first_arrival, last_arrival; /* at the bucket; 0 = never */
};

struct slot {
    uint32_t tx;            /* NO_TX: not seen */
    uint32_t event;
};

struct partition_log {
    struct slot *slots;
    uint64_t count, cap;    /* highest seen + 1 */
    uint64_t known;         /* seen without a hole below, and checked */
    uint64_t watermark;     /* highest that an answer told */
    uint64_t latest_first_arrival; /* among those known */
};

/* An answer whose truth shows when the log is known. */
struct claim {
    uint32_t tx;
    enum err err;
    uint64_t arrival;
    char text[400];
};

struct model {
    struct trace *trace;
    uint32_t partition_count;
    struct model_stream streams[MODEL_STREAMS_MAX];
    uint32_t stream_count;
    struct stream_log slots[MODEL_STREAMS_MAX];
    struct partition_log *partitions; /* [partition_count] */
    struct tx **txs;
    uint32_t tx_count, tx_cap;
    struct claim *claims;
    uint32_t claim_count, claim_cap;
    uint64_t acked_txs, acked_events, refusals;
    bool rot;               /* data was damaged: what can't be read is no violation */
};

void model_init(struct model *model, struct trace *trace, uint32_t partition_count);
void model_release(struct model *model);
void model_add_stream(struct model *model, uint32_t partition, const struct uuid *key,
                      const char *name);

/* A new transaction of `count` events to be filled in by the caller; ids must come from
 * model_event_id. */
struct tx *model_add_tx(struct model *model, uint32_t stream, uint32_t count);
/* An id that names its event. `random`: what is left of it; bytes 0..7 (time and version for a
 * generated id). */
struct uuid model_event_id(const struct tx *tx, uint32_t event, const uint8_t head[static 8]);
struct span tx_bytes(const struct tx *tx, uint32_t at, uint32_t len);

/* The transaction and event that this stored event is, its content compared whole. False: it is
 * none; a failure was noted. */
bool model_match(struct model *model, const struct rec_stored_event *event, struct tx **ret_tx,
                 uint32_t *ret_event);
/* An answer showed this event: its whole transaction has its place. */
void model_see(struct model *model, const struct rec_stored_event *event);
void model_place(struct model *model, struct tx *tx, uint64_t first_seq);
/* Extends what is known of a log, checking versions, owners, expectations and order as it goes. */
void model_advance(struct model *model, uint32_t partition);

/* Events of a stream with a sequence below `watermark`; the log must be known that far. */
uint64_t model_stream_count(const struct model *model, uint32_t stream, uint64_t watermark);
/* Its events known so far. */
uint64_t model_stream_known(const struct model *model, uint32_t stream);

void model_claim(struct model *model, const struct tx *tx, enum err err, uint64_t arrival,
                 struct span text);
/* Whether the refusal, to the letter, is what a bucket whose partition holds k events must answer.
 */
bool model_claim_holds(const struct model *model, const struct claim *claim, uint64_t k);
/* Judges all claims by the log as it is known now: each must have been true at a point where it
 * can have been looked at. */
void model_judge_claims(struct model *model);
