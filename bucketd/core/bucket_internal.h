/* What the files of the bucket core share: the state of one bucket. Only bucket*.c and the files it
 * names include this.
 *
 *   bucket.c    life, dispatch, turns
 *   segments.c  the table of segments and their indexes: sealing, opening, rebuilding
 *   segments_find.c lookups over their indexes
 *   summaries.c what whole runs of older segments hold
 *   fetch.c     one event's bytes, from the tail, the cache or the disk
 *   append.c    transactions: duplicates, expected versions, encoding
 *   query.c     get, scans, versions, sequences
 *   commit.c    what is committed: watermarks, answers, live tail
 *   replica.h   the other replicas */
#pragma once

#include "bucketd/core/bucket.h"
#include "bucketd/core/cache.h"
#include "bucketd/core/index.h"
#include "bucketd/core/lender.h"
#include "bucketd/core/repairer.h"
#include "bucketd/core/replica.h"
#include "bucketd/core/wal.h"
#include "common/limits.h"

/* --- segments.c ------------------------------------------------------------------------------- */

/* A stretch of a segment with its index. Rot in the middle of a segment that must be indexed anew
 * makes two parts of one number: sequences and versions have no holes within a part. Parts stand in
 * log order; the last is open. */
struct segment {
    uint64_t number;
    struct index *index; /* NULL: its files aren't mapped now */
    bool sealing;        /* a job writes its index files */
    bool kept;           /* in memory for good: a part, which has no files */
    bool damaged;        /* a part: the segment's data isn't whole */
    bool hole_before;    /* entries between the part before and this one are damaged */
    uint64_t used;       /* clock of the last use, for the bound on mapped bytes */
};

struct seal_job;
struct summary_job;

/* The summary of INDEX_SUMMARY_SEGMENTS segments, by number / that. */
struct summary {
    struct index_summary *index; /* NULL: there is none (yet) */
    bool building;
};

struct segments {
    struct segment *list;
    uint32_t count, cap;
    uint32_t sealing; /* how many are being written */
    uint64_t mapped_bytes;
    uint64_t first_offset; /* of the first entry that recovery delivered, and of the last */
    uint64_t last_offset;
    uint64_t clock;
    struct seal_job *jobs; /* running */
    struct summary *summaries;
    uint32_t summaries_len;
    struct summary_job *summary_jobs; /* running */
    bool holed;                       /* some part has hole_before */
    struct buf recovered; /* struct recovered_entry: what a cut found in recovery may take back */
};

struct recovered_entry {
    uint64_t idx;
    uint32_t part, events;
};

/* --- fetch.c ---------------------------------------------------------------------------------- */

/* A read of a stretch of a data file, in the pool or at once. */
struct range_read {
    struct job job;
    struct query *query; /* whom to wake; NULL: nobody waits */
    uint64_t segment, offset;
    size_t len;       /* asked for */
    struct buf bytes; /* what came */
    enum err err;
    bool running;
    uint32_t layout;         /* of the bucket, when it was asked for */
    struct range_read *next; /* in a read_queue */
};

struct read_queue {
    struct range_read *first, *last;
};

/* Where one event's bytes are found for as long as its view is used. Reused from event to event. */
struct fetcher {
    bool synchronous; /* read at once instead of ERR_AGAIN (duplicate search in appends) */
    bool backward;    /* which way more will be wanted */
    uint32_t ahead;   /* bytes worth reading with a miss */
    struct range_read range;
    struct buf assembled; /* an event that spans cached blocks */
    struct buf scratch;   /* decompressed data */
    /* What is known of the event at hand: its parts may lie in blocks of which a small cache and
     * `range` hold only one, so what was read is kept until the rest is there. */
    uint64_t segment, offset;           /* of the event */
    uint32_t distance, len;             /* of it; len 0: not known */
    uint64_t head_segment, head_offset; /* of `head`; offset 0: not known */
    uint8_t head[sizeof(struct entry_head)];
};

/* --- query.c ---------------------------------------------------------------------------------- */

enum query_kind { QUERY_GET, QUERY_PARTITION, QUERY_STREAM, QUERY_VERSION };

/* A read that may have to wait for the disk. */
struct query {
    struct query *next, *prev; /* in bucket->queries, or the free list (next only) */
    struct bucket *bucket;
    enum query_kind kind;
    uint32_t link;
    uint64_t req_id;
    uint32_t partition;
    struct uuid partition_key, event_id;
    uint8_t stream[STREAM_ID_LEN_MAX];
    uint8_t stream_len;
    bool reverse;
    uint64_t at, end;      /* next sequence or version wanted, last one wanted */
    uint64_t count, bytes; /* how much of either the chunk may still hold */
    uint64_t watermark;
    bool stale; /* as was the watermark when it was taken */
    uint64_t found;
    struct buf records; /* packed stored_event */
    struct fetcher fetcher;
};

/* --- append.c --------------------------------------------------------------------------------- */

/* A stream as a transaction leaves it so far. */
struct tx_stream {
    struct span stream; /* ptr NULL: empty slot */
    bool exists;
    uint64_t version; /* last, where it exists */
    struct uuid owner;
};

/* Scratch memory of one append, kept from one to the next. */
struct append_scratch {
    struct wal_event *events;
    struct rec_new_event *records;
    uint32_t *positions;
    uint32_t cap;
    struct tx_stream *streams; /* open addressing, streams_cap a power of two */
    uint32_t streams_cap;
    struct buf reply;
    struct fetcher fetcher;
};

/* --- commit.c --------------------------------------------------------------------------------- */

/* An answer that leaves when the tail it looked at is committed; its packed message follows in the
 * same buffer. */
struct waiting_reply {
    uint64_t idx;
    uint64_t tick; /* a quorum must have echoed this one too; 0: none */
    uint64_t req_id;
    uint32_t link;
    uint32_t len;
};

/* First in, first out. */
struct reply_queue {
    struct buf bytes;
    size_t at;   /* what is before has left */
    size_t head; /* of the answer between commit_reply_begin and _end */
    bool open;
};

struct partition {
    uint64_t watermark;  /* events committed: seq < watermark is readable */
    uint32_t *followers; /* links */
    uint32_t followers_len;
    struct buf tail; /* packed stored_event of this commit, on their way to the followers */
    uint64_t tail_first, tail_count;
    /* Its newest events may lie in a damaged stretch: nobody can say where it ends. */
    bool end_unknown;
};

struct bucket {
    struct bucket_config config;
    struct env *env;
    struct format_salt salt; /* segment and where are filled in per use */
    uint64_t hash_seed;
    struct wal_config wal_config;
    struct wal *wal;
    struct cache *cache;
    struct segments segments;
    struct partition *partitions; /* [partition / bucket_count] */
    uint32_t partition_count;     /* of this bucket */
    bool damaged;
    uint64_t damage_segment, damage_offset;
    uint64_t recovered_idx; /* last entry seen in recovery; 0 before any */

    struct buf
        waiting;       /* append requests that don't fit now: {link u32, len u32, packed message} */
    size_t waiting_at; /* consumed part of it */
    struct reply_queue replies;
    /* Refusals that rest on the newest versions: they need proof that this replica still leads, and
     * answers behind them needn't wait for that. */
    struct reply_queue refusals;
    struct replica replica;
    struct repairer *repairer; /* NULL: alone */
    struct lender *lender;
    uint32_t layout; /* counts segments that were written anew: places of before don't hold */

    struct query *queries; /* waiting for the disk */
    struct query *queries_free;
    uint32_t queries_len, queries_free_len;

    uint64_t reading_bytes;                      /* asked of the disk by queries */
    struct read_queue reads_waiting, reads_done; /* for room: to start; to be answered */

    struct append_scratch append;
    uint64_t flush_started_ns, flush_took_ns; /* the last one */
    uint64_t reads_at_flush;                  /* stats.reads when it began */
    uint64_t flushed_ns;                      /* when the last flush ended */
    bool idle;                                /* and the witness of it is written */
    bool term_begun; /* alone: this incarnation's vote and NOOP are in the log */
    uint64_t space_retry_ns;
    bool stopping;
    struct bucket_stats stats;
};

#define NS_PER_MS 1000000ull

/* Sent requests that wait for room, or reads that wait for the disk, at most; more get ERR_BUSY. */
#define WAITING_BYTES_MAX (256ull << 20)
#define QUERIES_MAX       8192u
/* Ended queries whose memory is kept for the next ones. */
#define QUERIES_KEPT_MAX 16u
/* Queries' reads that run at a time, unless one alone is larger; and answers that wait to leave,
 * beyond which no read is started. */
#define READING_BYTES_MAX (16ull << 20)
#define ANSWERS_BYTES_MAX (8ull << 20)
/* Sealed segments whose index is still being written, at most; then appends wait. */
#define SEALING_MAX 3u

/* --- bucket.c --- */
/* Alone: writes the vote and the NOOP that begin this incarnation's term. False: they aren't there,
 * since the log takes nothing now. */
bool bucket_begin_term(struct bucket *bucket);
/* NULL where the partition isn't one of this bucket's. */
struct partition *bucket_partition(struct bucket *bucket, uint64_t partition);
/* The same for a request, which then is failed. */
struct partition *bucket_partition_asked(struct bucket *bucket, uint32_t link, uint64_t req_id,
                                         uint64_t partition);
/* Appends the stored_event that netd gets of an event. */
void bucket_pack_event(struct buf *out, const struct event_view *event);
/* Packs a fail_reply at once. */
/* Runs a read that may be answered now. */
void bucket_answer_read(struct bucket *bucket, uint32_t link, const struct msg *msg);
void bucket_fail(struct bucket *bucket, uint32_t link, uint64_t req_id, enum err err,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

/* --- segments.c --- */
/* Before wal_open. */
void segments_init(struct bucket *bucket);
void segments_release(struct bucket *bucket);
/* Recovery: an entry of the newest segment. */
void segments_on_entry(struct bucket *bucket, const struct wal_entry *entry);
/* Recovery: entries from this idx on are dead. */
void segments_on_cut(struct bucket *bucket, uint64_t from_idx);
/* Puts an entry of the open segment into its index. */
void segments_index_entry(struct bucket *bucket, const struct wal_entry *entry);
/* Recovery: the older segments; rebuilds indexes that are missing. */
enum err segments_open(struct bucket *bucket, const struct wal_recovery *recovery) MUST_CHECK;
/* A new open segment. */
void segments_roll(struct bucket *bucket, uint64_t number);
/* Starts writing the indexes of the segments before this number: they are complete and durable. */
void segments_seal(struct bucket *bucket, uint64_t number);
/* The i-th part's index, mapped or rebuilt where need be. ERR_CORRUPT: its data can't be read
 * either. */
enum err segments_index(struct bucket *bucket, uint32_t i, struct index **ret_index) MUST_CHECK;
/* A lookup met a bad page: throws the mapping away and builds the index from the data. A damaged
 * segment may come out as several parts: *ret_i is then the last of them. */
enum err segments_rebuild(struct bucket *bucket, uint32_t i, uint32_t *ret_i) MUST_CHECK;
/* The segment was written anew: this is its index, and it has no index files yet. */
void segments_replace(struct bucket *bucket, uint64_t number, struct index *index);
/* The open one's index. */
struct index *segments_open_index(struct bucket *bucket);
bool segments_busy(const struct bucket *bucket);

/* --- segments_find.c --- */

/* Searches the parts before `below`, newest first. ERR_NOTFOUND; ERR_CORRUPT: what was looked for
 * may lie in a damaged stretch. */
enum err segments_find_stream(struct bucket *bucket, uint32_t partition, struct span stream,
                              uint32_t below, uint32_t *ret_i,
                              struct index_stream *ret_stream) MUST_CHECK;
/* The next candidate for an event id, newest part first; begin with `left` = all parts, skip = 0.
 * Errors as above. */
struct event_search {
    uint32_t left; /* parts not done */
    uint32_t skip; /* candidates seen in the part at hand */
};
enum err segments_find_event(struct bucket *bucket, const struct uuid *event_id,
                             struct event_search *search, uint64_t *ret_segment,
                             uint32_t *ret_position) MUST_CHECK;

/* --- summaries.c --- */
void summaries_open(struct bucket *bucket);
/* Makes or opens the summary that this segment belongs to, if all its segments are sealed. */
void summaries_update(struct bucket *bucket, uint64_t segment);
void summaries_release(struct bucket *bucket);
/* True: the summary of the last of the `left` parts knows that none of them has it; *left moves
 * to before them. */
bool summaries_skip_stream(struct bucket *bucket, uint32_t partition, struct span stream,
                           uint32_t *left);
bool summaries_skip_event(struct bucket *bucket, const struct uuid *event_id, uint32_t *left);

/* --- fetch.c --- */
void fetcher_release(struct fetcher *fetcher);
/* What it knows of places doesn't hold any more. A read under way is asked for again. */
void fetcher_forget(struct fetcher *fetcher);
/* Goes on with queries that waited until fewer bytes are read or wait to leave. */
void fetch_resume(struct bucket *bucket);
/* Decodes the event at this position. ERR_AGAIN: a read was submitted, fetcher->range.query will be
 * stepped. ERR_CORRUPT: the bytes are damaged. The view lives until the next fetch. */
enum err fetch_event(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                     uint32_t position, struct event_view *ret_event) MUST_CHECK;

/* --- append.c --- */
void append_release(struct bucket *bucket);
void append_on_request(struct bucket *bucket, uint32_t link, const struct msg *msg);
/* Takes requests that waited, as far as there is room now. */
void append_retry_waiting(struct bucket *bucket);
/* This replica doesn't lead any more: those that wait are to be sent to who does. */
void append_fail_waiting(struct bucket *bucket);

/* --- query.c --- */
void query_on_message(struct bucket *bucket, uint32_t link, const struct msg *msg);
/* Goes on with a query whose bytes are there. */
void query_step(struct bucket *bucket, struct query *query);
void query_release(struct bucket *bucket);

/* Forgets what waiting queries know of places: a segment was written anew. */
void query_forget_places(struct bucket *bucket);

/* --- repair.c --- */
void repair_open(struct bucket *bucket, const struct wal_config *wal_config,
                 const struct wal_recovery *recovery);
void repair_release(struct bucket *bucket);
/* Something in this segment isn't what it must be. */
void repair_note(struct bucket *bucket, uint64_t segment);
void repair_on_message(struct bucket *bucket, uint32_t node, const struct msg *msg);
bool repair_busy(const struct bucket *bucket);

/* --- commit.c --- */
/* Recovery: watermarks of what is known to be committed. */
void commit_open(struct bucket *bucket);
/* `written`, which may be empty: bytes at `at` that hold some of these entries. */
void commit_up_to(struct bucket *bucket, uint64_t idx, struct lsn at, struct span written);
/* Where an append's answer is packed: it leaves when all entries up to now are committed (at once
 * if they are). `refusal`: and when it is proven that this replica led when it was asked.
 * commit_reply_end must follow. */
struct buf *commit_reply_begin(struct bucket *bucket, uint32_t link, uint64_t req_id, bool refusal);
void commit_reply_end(struct bucket *bucket);
/* Sends the refusals that may leave. */
void commit_send_refusals(struct bucket *bucket);
/* Leadership is over: whatever waits is of unknown outcome. */
void commit_fail_replies(struct bucket *bucket);
void commit_follow(struct bucket *bucket, uint32_t link, const struct msg_follow_req *req);
void commit_unfollow(struct bucket *bucket, uint32_t link, const struct msg_unfollow_req *req);
void commit_link_lost(struct bucket *bucket, uint32_t link);
void commit_release(struct bucket *bucket);
