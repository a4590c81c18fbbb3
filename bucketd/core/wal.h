/* The log of a bucket: batches in segment files, group commit, rollover, recovery (REPLICATION.md 2
 * and 6, format.h).
 *
 * Writing. Records are encoded into the open group; wal_flush hands the group to a job (one write,
 * one fdatasync) and opens the next group; only one flush is in flight. When its job is done, wal
 * calls on_durable. Space is preallocated and zeroed ahead by a job, and the next segment's file is
 * prepared ahead too, so that a full disk is met before a write needs the room: then wal_fits says
 * no, and nothing of the record has been encoded.
 *
 * Any error of a flush is final: env->fatal. */
#pragma once

#include "bucketd/core/env.h"
#include "bucketd/core/format.h"
#include "bucketd/core/planted.h"
#include "common/limits.h"

struct wal;

/* A voter of the bucket's Raft group. Whoever loses its disk is another voter from then on: the
 * same node in the next generation. disk_id 0: not known yet (idx 1 is made from settings). */
struct wal_voter {
    uint32_t node, generation;
    uint64_t disk_id;
};

struct wal_voters {
    uint32_t count;
    struct wal_voter list[REPLICAS_MAX];
};

struct wal_config {
    struct uuid cluster_id;
    uint32_t node, bucket, bucket_count, partition_count;
    uint64_t segment_bytes;
    bool compression;
    uint32_t replicas[REPLICAS_MAX]; /* of the settings; idx 1 is made from them */
    uint32_t replica_count;          /* 1: what is durable is committed */
#ifdef PLANTED_BUGS
    int planted;
#endif
};

/* An entry that isn't committed yet, and where it stands. */
struct tail_entry {
    uint64_t idx, term, chain;
    struct lsn at; /* of its entry_head */
    uint32_t len;
    uint8_t kind; /* enum entry_kind */
    uint32_t partition, count;
    uint64_t first_seq;
};

/* One event to be encoded. */
struct wal_event {
    struct uuid event_id;
    uint64_t version;
    uint64_t timestamp_ns;
    struct span stream, name, metadata, payload;
};

/* An entry as recovery and verify show it; events are read with wal_entry_event. */
struct wal_entry {
    uint64_t segment;
    uint64_t offset;               /* of its entry_head */
    const struct entry_head *head; /* in the bytes that follow it */
    struct span bytes;             /* the whole record */
};

/* A decoded event: views into the bytes it was decoded from, or into `scratch` where it was
 * compressed. */
struct event_view {
    struct uuid event_id, partition_key, transaction_id;
    uint32_t partition;
    uint64_t sequence, version, timestamp_ns;
    struct span stream, name, metadata, payload;
};

struct wal_callbacks {
    void *ctx;
    /* Recovery: every entry of the newest segment in order. */
    void (*on_entry)(void *ctx, const struct wal_entry *entry);
    /* Recovery: entries >= from_idx that were delivered are dead. */
    void (*on_cut)(void *ctx, uint64_t from_idx);
    /* The group that contained entries up to last_idx is durable. `written`: its bytes, which lie
     * at `at` in the file; they are valid during this call, in which wal_flush starts nothing
     * (wal_flushing is still true). */
    void (*on_durable)(void *ctx, uint64_t last_idx, struct lsn at, struct span written);
    /* The group about to be encoded will open this new segment: the one before is complete (its
     * index can be written once the group is durable). Called before any record of the new segment
     * gets its position. */
    void (*on_roll)(void *ctx, uint64_t new_segment);
    /* Preparing space has ended, well or not: ask wal_fits again for what is waiting. */
    void (*on_space)(void *ctx);
};

struct wal *wal_new(const struct wal_config *config, struct env *env,
                    const struct wal_callbacks *callbacks);
void wal_free(struct wal *wal);

/* Creates the first segment or recovers: the newest segment is scanned and on_entry called for each
 * of its entries; a torn tail is cut; rot is never cut (then `damaged`: what is whole before and
 * behind the hole was delivered, and the wal takes no records); the last batch is written again and
 * synced, the space behind it zeroed. The caller's next step is a new term: wal_append_vote and
 * wal_append_noop, as soon as wal_fits(WAL_TERM_BOUND) allows (on a full disk not at once). Errors:
 * ERR_CORRUPT (the directory belongs to another cluster, bucket or format, a segment is missing, or
 * both copies of the newest checkpoint are bad; the log line names it, and `lost` tells damage from
 * a foreign log), ERR_FULL (first start), ERR_IO. */
struct wal_recovery {
    uint64_t segments;      /* existing, the newest included */
    uint64_t first_segment; /* oldest existing number */
    uint64_t segment;       /* the newest */
    uint64_t data_start, data_end;
    uint64_t entries, events; /* in the newest segment */
    uint64_t torn_bytes;      /* cut */
    bool created;
    bool damaged;           /* rot in the newest segment: read what is whole, append nothing */
    uint64_t damage_offset; /* of the first damaged place ... */
    uint64_t damage_last;   /* ... and of the last */
    /* Entries that the damage hides: between the last one before it that surely lives and the first
     * whole one behind all of it (or, where none is, the last idx that a later batch's marks tell
     * of; UINT64_MAX: nothing tells). Where entries can be cut, those above the commit hint may be
     * dead: on_cut has been told of them. Both 0: only records without entries are damaged. */
    uint64_t hole_first, hole_last;
    bool lost; /* with ERR_CORRUPT: it is this bucket's log, but nothing tells its end any more */
};
enum err wal_open(struct wal *wal, struct wal_recovery *ret_recovery) MUST_CHECK;

/* State that recovery found and appending moves (tail, durable or not). */
uint64_t wal_term(const struct wal *wal);
uint64_t wal_voted_for(const struct wal *wal); /* node + 1; 0: nobody */
uint64_t wal_last_idx(const struct wal *wal);
uint64_t wal_last_term(const struct wal *wal);
uint64_t wal_last_chain(const struct wal *wal);
/* Entries up to here are durable: never more than last_idx; a cut takes it back. */
uint64_t wal_durable_idx(const struct wal *wal);
/* The number that the open group's batch will have, and that of the last durable one: what is
 * appended now (a vote) is durable when wal_durable_batch has reached today's wal_open_batch. */
uint64_t wal_open_batch(const struct wal *wal);
uint64_t wal_durable_batch(const struct wal *wal);
/* Chosen at random when the directory was created; in every segment's header. */
uint64_t wal_disk_id(const struct wal *wal);
/* Those of the last CONFIG in the log, committed or not. Valid until the next append, cut or
 * commit. */
const struct wal_voters *wal_voters(const struct wal *wal);
/* The idx of that CONFIG. */
uint64_t wal_config_idx(const struct wal *wal);

/* --- committed and not. With one replica what is durable is committed, and all this is moved by
 * the bucket all the same. After wal_open: the hint of the last batch, or (one replica) all. --- */
uint64_t wal_commit_idx(const struct wal *wal);
/* Moves it up to idx <= last_idx; forgets the tail entries up to there, so look at them before.
 * Goes into the marks of the batches to come. */
void wal_commit(struct wal *wal, uint64_t idx);
/* commit_idx < idx <= last_idx, else NULL (also where damage hides the entry). Valid until the next
 * append, cut or commit. */
const struct tail_entry *wal_tail_entry(const struct wal *wal, uint64_t idx);
/* Term and chain of the entry commit_idx <= idx <= last_idx; false: not in that range, or hidden by
 * damage. */
bool wal_point(const struct wal *wal, uint64_t idx, uint64_t *ret_term, uint64_t *ret_chain);
uint64_t wal_segment(const struct wal *wal);       /* number of the one records go to now */
uint64_t wal_events_before(const struct wal *wal); /* stored in older segments */
uint64_t wal_disk_bytes(const struct wal *wal);
/* next_seq of a partition of this bucket (tail). */
uint64_t wal_next_seq(const struct wal *wal, uint32_t partition);
/* next_seq as the checkpoint of the newest segment has it. */
uint64_t wal_checkpoint_seq(const struct wal *wal, uint32_t partition);

/* Largest encoded size of an entry (no compression). */
uint64_t wal_entry_bound(const struct wal_event *events, uint32_t count);
/* Largest entry that a segment of this configuration can hold. */
uint64_t wal_entry_max(const struct wal *wal);

/* For a vote and a noop together. */
#define WAL_TERM_BOUND (sizeof(struct vote_record) + sizeof(struct entry_head))

/* Whether records of this bound (wal_entry_bound, <= wal_entry_max; with more than one replica
 * larger ones too: what another replica's configuration allows) can be encoded now. ERR_OK;
 * ERR_AGAIN: not now, but after the flush of the open group, the running flush, or the running
 * preparation of space (the caller keeps the request, calls wal_flush, and tries again after
 * on_durable or on_space); ERR_FULL: the disk has no room; ERR_CORRUPT: damaged, never (but for
 * votes: with more than one replica, and where it is known what the log had come to, a bound of
 * WAL_TERM_BOUND with ROOM_MUST finds room behind the damage, for VOTE records only).
 *
 * ERR_AGAIN is also the answer where the segment is full and entries in it aren't committed: a
 * segment is left only when all that it holds is committed or dead, so that a cut never reaches
 * into an older one (try again after wal_commit). ROOM_MUST (votes, cuts, entries of a new term:
 * what commits the tail) then makes the segment larger than configured instead. With one replica
 * nothing is ever cut, and nobody waits. */
enum wal_room { ROOM_WAIT, ROOM_MUST };
enum err wal_fits(struct wal *wal, uint64_t bound, enum wal_room room) MUST_CHECK;

/* Encodes one transaction (after wal_fits said yes). Sets first_seq by the partition's next_seq and
 * moves it. positions[i] receives the offset / 8 of event i in wal_segment(). Returns the idx. */
uint64_t wal_append_tx(struct wal *wal, uint32_t partition, const struct uuid *partition_key,
                       const struct uuid *transaction_id, const struct wal_event *events,
                       uint32_t count, uint32_t *ret_positions);
uint64_t wal_append_noop(struct wal *wal);
/* A CONFIG entry: in force at once. */
#define WAL_CONFIG_BOUND                                                                           \
    (sizeof(struct entry_head) + sizeof(struct config_body) +                                      \
     REPLICAS_MAX * sizeof(struct config_voter))
uint64_t wal_append_config(struct wal *wal, const struct wal_voters *voters);
/* An entry of another replica's log, as its record stands there, with idx = last_idx + 1 and a term
 * <= this log's term: the same bytes, with CRCs of the place where they stand here. ERR_CORRUPT:
 * it isn't whole (lengths, event structure), isn't the next one, or its chain doesn't follow from
 * this log's; ERR_INVALID: its first_seq isn't the partition's next. Then nothing was appended.
 * *ret_entry: where it stands now; valid until the next append. After wal_fits(bytes.len). */
enum err wal_append_entry(struct wal *wal, struct span bytes,
                          struct wal_entry *ret_entry) MUST_CHECK;
/* Entries >= from_idx (> commit_idx) are dead: the log's state is that after from_idx - 1 again.
 * by_term <= this log's term. The caller has popped their events from the index. After
 * wal_fits(WAL_CUT_BOUND, ROOM_MUST). */
#define WAL_CUT_BOUND sizeof(struct cut_record)
void wal_append_cut(struct wal *wal, uint64_t from_idx, uint64_t by_term);
/* The head (with the length, record.len) of the entry that the bytes begin with. ERR_TRUNCATED:
 * they don't hold all of it; ERR_CORRUPT. */
enum err wal_peek_entry(struct span bytes, struct entry_head *ret_head) MUST_CHECK;
/* A new term with a vote (voted_for = node + 1) or without one yet (0), or the vote of the current
 * term that has none yet; in the open group. */
void wal_append_vote(struct wal *wal, uint64_t term, uint64_t voted_for);

/* Something waits to be flushed. */
bool wal_pending(const struct wal *wal);
bool wal_flushing(const struct wal *wal);
/* Starts the flush of the open group if none is running and there is something to flush. */
void wal_flush(struct wal *wal);
/* Whether the next flushes should be done in the core's thread (struct job, brief). */
void wal_set_brief(struct wal *wal, bool brief);
/* The idle witness: an empty batch that says the last one was synced. True where one is due
 * (something was written since the last witness) and was started. */
bool wal_flush_witness(struct wal *wal);
/* Jobs in flight (flush, preallocation, preparation of the next segment). */
bool wal_busy(const struct wal *wal);
bool wal_disk_full(const struct wal *wal);
/* Tries again after ERR_FULL: call now and then (bucket_turn does so every 200 ms). */
void wal_retry_space(struct wal *wal);

/* Bytes that are in the log but perhaps not yet in the file (open group, group in flight): empty
 * span where [offset, offset + len) of this segment isn't wholly among them. */
struct span wal_tail_bytes(const struct wal *wal, uint64_t segment, uint64_t offset, size_t len);
/* Where durable data of this segment ends (its whole data for a sealed one: UINT64_MAX). */
uint64_t wal_durable_end(const struct wal *wal, uint64_t segment);
/* The end of all that is durable. */
struct lsn wal_durable(const struct wal *wal);

/* --- decoding; pure --- */
/* Path of a segment's directory, "segments/0000000003"; returns text. */
const char *wal_segment_dir(uint64_t segment, char text[static 32]);
/* From the first bytes of an event (its event_head at least, else ERR_TRUNCATED): how far before it
 * its entry's head is, and its length. Only plausibility is checked here (ERR_CORRUPT):
 * wal_decode_event checks all of it. */
enum err wal_event_extent(struct span bytes, uint32_t *ret_entry_distance,
                          uint32_t *ret_len) MUST_CHECK;
/* Decodes and verifies one event given the bytes of its entry_head (80) and of the event itself;
 * offsets are theirs in the segment. ERR_CORRUPT: a CRC, length or link is wrong. scratch is used
 * for decompression and must outlive the view. */
enum err wal_decode_event(const struct format_salt *salt, uint64_t entry_offset,
                          struct span entry_head_bytes, uint64_t event_offset,
                          struct span event_bytes, struct buf *scratch,
                          struct event_view *ret_event) MUST_CHECK;
/* Iterates over the events of an entry, verifying each: offset starts at sizeof(struct entry_head);
 * ERR_NOTFOUND at the end (at once for a NOOP or CONFIG). *ret_position: offset / 8 of the event in
 * its segment. */
enum err wal_entry_event(const struct wal_entry *entry, const struct format_salt *salt,
                         uint64_t *offset, struct buf *scratch, struct event_view *ret_event,
                         uint32_t *ret_position) MUST_CHECK;

/* --- whole segments, for rebuild, verify and dump --- */
enum wal_problem { WAL_TORN = 1, WAL_ROT };
struct wal_scan {
    void *ctx;
    void (*on_batch)(void *ctx, const struct batch_mark *head); /* may be NULL */
    void (*on_record)(void *ctx, uint64_t offset,
                      const struct record_head *record);        /* may be NULL */
    void (*on_entry)(void *ctx, const struct wal_entry *entry); /* may be NULL */
    /* entries >= from_idx that were shown are dead; may be NULL */
    void (*on_cut)(void *ctx, uint64_t from_idx);
    void (*on_problem)(void *ctx, enum wal_problem, uint64_t offset,
                       const char *what); /* may be NULL */
};
struct wal_scan_result {
    struct segment_header header;
    struct checkpoint checkpoint;
    bool sealed;
    struct segment_footer footer;                /* where sealed */
    uint64_t data_end, batches, entries, events; /* entries and events that live */
    uint64_t last_idx, last_term, last_chain;
    uint64_t config_idx; /* in force at the end */
    struct wal_voters voters;
    uint64_t problems;
};
/* Reads one data.evts whole in bounded pieces, checks every CRC, idx, chain and sequence,
 * decompresses every event. */
enum err wal_scan_segment(struct disk *disk, uint64_t segment, const struct format_salt *salt,
                          const struct wal_scan *scan,
                          struct wal_scan_result *ret_result) MUST_CHECK;
