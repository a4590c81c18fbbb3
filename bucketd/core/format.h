/* What is on disk, all of it: little-endian, fixed layouts, one file (REPLICATION.md 2 and 6).
 *
 *   buckets/00000/segments/0000000000/data.evts
 *   +------------------+ 0
 *   | segment header   |  4 KiB: who this file belongs to, CRC
 *   +------------------+ 4096
 *   | checkpoint       |  state of the bucket at the segment's start, twice the same bytes, each
 *   | checkpoint copy  |  copy at a 4 KiB boundary and padded to one
 *   +------------------+ data_start (4 KiB aligned)
 *   | batch            |  batch_head | records, each 8-byte aligned | batch_tail (the same facts
 *   |                  |  again, and a CRC of the records)
 *   | batch            |
 *   | ...              |
 *   +------------------+ data_end
 *   | footer           |  only in a sealed segment: counts, idx range, CRC; the file ends behind it
 *   +------------------+
 *   An open segment is preallocated beyond its end; those bytes are zeros.
 *
 * The next segment's file is prepared under the name data.new; it is renamed when header and
 * checkpoint are synced. So a data.evts without a valid header is damage, never a crash.
 *
 * A record is ENTRY, VOTE or CUT (the numbers of HINT and REPAIRED are taken). A CUT says that
 * the entries from from_idx on that stand before it are dead; it never reaches into an older
 * segment. An ENTRY is one whole transaction:
 *   entry_head | event | event | ...
 *   event = event_head, stream, name, metadata, payload, zeros to 8 bytes
 *
 * Every CRC is CRC32C started with the salt of where it belongs (format_salt: cluster, bucket,
 * segment, offset), so that bytes which are right but in the wrong place are wrong. */
#pragma once

#include <assert.h>

#include "common/uuid.h"

#define FORMAT_VERSION   1u
#define FORMAT_BLOCK     4096u
#define SEGMENT_MAGIC    0x5345474d42445253ull /* "SRDBMGES" */
#define CHECKPOINT_MAGIC 0x54504b4342445253ull
#define FOOTER_MAGIC     0x544f4f4642445253ull
#define BATCH_HEAD_MAGIC 0xb47c4ead5b10c5a1ull
#define BATCH_TAIL_MAGIC 0xb47c47a175b10c5aull
/* Room for so many voters in a checkpoint (REPLICAS_MAX). */
#define FORMAT_VOTERS_MAX 7u

struct segment_header {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;             /* of the whole 4 KiB block with this field 0 */
    struct uuid cluster_id;
    uint32_t node;
    uint32_t bucket;
    uint32_t bucket_count;
    uint32_t partition_count;
    uint64_t segment;         /* number */
    uint64_t data_start;      /* offset of the first batch */
    uint64_t checkpoint_len;  /* of one copy, before padding */
    uint64_t segment_bytes;   /* configured size when it was made */
    uint64_t disk_id;         /* random, of the bucket's directory: whoever has another one has
                               * another log; never 0 */
};
_Static_assert(sizeof(struct segment_header) == 88, "fixed layout");

/* One voter of a CONFIG. */
struct config_voter {
    uint32_t node;
    uint32_t generation;      /* whoever loses its disk is another voter: one higher */
    uint64_t disk_id;         /* 0: made from settings, when nobody's was known */
};
_Static_assert(sizeof(struct config_voter) == 16, "fixed layout");

/* Followed by partition_state[partitions], ascending by partition; only those of this bucket. */
struct checkpoint {
    uint64_t magic;
    uint32_t crc;             /* of the copy with this field 0, partition states included; salt: at
                               * 4096, for both copies */
    uint32_t partitions;
    uint64_t term;
    uint64_t voted_for;       /* node + 1; 0 = nobody */
    uint64_t last_idx;
    uint64_t last_term;
    uint64_t last_chain;
    uint64_t commit_hint;     /* = last_idx: a segment is left only when all in it is committed */
    uint64_t batch_no;        /* the last batch before this segment */
    uint64_t events;          /* stored in the bucket before this segment */
    uint64_t config_idx;      /* the CONFIG entry in force */
    uint64_t tail_count;      /* uncommitted entries before this segment: 0, see commit_hint */
    uint64_t disk_id;         /* a copy, should the header be damaged */
    uint32_t voters;          /* of the CONFIG in force */
    uint32_t reserved;
    struct config_voter voter[FORMAT_VOTERS_MAX];
};
_Static_assert(sizeof(struct checkpoint) == 224, "fixed layout");

struct partition_state {
    uint32_t partition;
    uint32_t reserved;
    uint64_t next_seq;
};
_Static_assert(sizeof(struct partition_state) == 16, "fixed layout");

struct lsn {
    uint64_t segment;
    uint64_t offset;
};

/* Head and tail of a batch have one layout; the tail is its last bytes. */
struct batch_mark {
    uint64_t magic;           /* BATCH_HEAD_MAGIC or BATCH_TAIL_MAGIC */
    uint32_t crc;             /* of this mark with this field 0; salt: position of this mark */
    uint32_t body_crc;        /* of all bytes between head and tail; 0 in the head */
    uint64_t number;          /* batches of a bucket count from 1, without holes */
    uint64_t offset;          /* of the head, in this segment */
    uint64_t bytes;           /* head, records and tail */
    struct lsn synced_upto;   /* the log was known to be durable so far when this was written */
    uint64_t first_idx;       /* of its first entry; 0 = no entries */
    uint64_t last_idx;        /* of the log at the end of this batch, as also last_term: where */
    uint64_t last_term;       /* entries are damaged, a later mark still tells them */
    uint64_t term;            /* current term and vote: copies, so that one mark alone tells them */
    uint64_t voted_for;
    uint64_t commit_hint;     /* entries up to here are committed: a lower bound */
    uint32_t records;
    uint32_t reserved;
};
_Static_assert(sizeof(struct batch_mark) == 112, "fixed layout");

enum record_kind { RECORD_ENTRY = 1, RECORD_VOTE, RECORD_CUT, RECORD_HINT, RECORD_REPAIRED };
enum entry_kind { ENTRY_TX = 1, ENTRY_NOOP, ENTRY_CONFIG };

/* Begins each record. len counts all bytes of the record, a multiple of 8. */
struct record_head {
    uint32_t crc;             /* of what follows this in the head (entry_head, vote_record) */
    uint32_t len;
    uint8_t kind;             /* enum record_kind */
    uint8_t entry_kind;
    uint16_t partition;
    uint32_t count;           /* events of an ENTRY */
};
_Static_assert(sizeof(struct record_head) == 16, "fixed layout");

struct entry_head {
    struct record_head record;
    uint64_t idx;
    uint64_t term;
    uint64_t chain;           /* of this entry: see chain_head */
    uint64_t first_seq;
    struct uuid transaction_id;
    struct uuid partition_key;
};
_Static_assert(sizeof(struct entry_head) == 80, "fixed layout");

/* The chain is a running hash over all entries of a bucket's log, independent of place and
 * compression:
 *   chain = XXH3_64(chain_head of the entry, seed: the chain before it)
 *   then, for each event (or the config body): chain = XXH3_64(its canonical bytes, seed: chain) */
struct chain_head {
    uint64_t idx;
    uint64_t term;
    uint32_t entry_kind;
    uint32_t partition;
    uint64_t count;
    uint64_t first_seq;
    struct uuid transaction_id;
    struct uuid partition_key;
};
_Static_assert(sizeof(struct chain_head) == 72, "fixed layout");

/* Body of a CONFIG entry, behind its entry_head; followed by config_voter[voters]. What follows crc
 * is canonical: byte-identical on all replicas. */
struct config_body {
    uint32_t crc;             /* of what follows this field, voters included; salt: of this body */
    uint32_t voters;
    struct uuid group_id;     /* the cluster's id; with `bucket` it names the Raft group */
    uint32_t bucket;
    uint32_t bucket_count;
    uint32_t partition_count;
    uint32_t reserved;
};
_Static_assert(sizeof(struct config_body) == 40, "fixed layout");

#define EVENT_LZ4 1u

/* The bytes from `event_id` to the end of the data, uncompressed, are the canonical bytes the chain
 * covers. */
struct event_head {
    uint32_t crc;             /* of the event behind this field, padding included */
    uint32_t len;             /* of the event with its padding, a multiple of 8 */
    uint32_t index;           /* in its entry: sequence = first_seq + index */
    uint32_t entry_distance;  /* bytes from the entry's head to this event */
    uint32_t flags;           /* EVENT_LZ4: metadata and payload together are one lz4 block */
    uint32_t stored_len;      /* bytes of metadata and payload as stored */
    struct uuid event_id;
    uint64_t version;
    uint64_t timestamp_ns;
    uint32_t metadata_len;
    uint32_t payload_len;
    uint8_t stream_len;
    uint8_t name_len;
    uint8_t reserved[6];
};
_Static_assert(sizeof(struct event_head) == 72, "fixed layout");

struct vote_record {
    struct record_head record;
    uint64_t term;
    uint64_t voted_for;
};
_Static_assert(sizeof(struct vote_record) == 32, "fixed layout");

struct cut_record {
    struct record_head record;
    uint64_t from_idx;        /* never at or below a commit_hint */
    uint64_t by_term;         /* of the leader whose log differs */
};
_Static_assert(sizeof(struct cut_record) == 32, "fixed layout");

struct segment_footer {
    uint64_t magic;
    uint32_t crc;             /* of this struct with this field 0 */
    uint32_t reserved;
    uint64_t data_end;
    uint64_t batches;
    uint64_t last_batch;
    uint64_t entries;
    uint64_t events;
    uint64_t first_idx;
    uint64_t last_idx;
    uint64_t last_chain;
};
_Static_assert(sizeof(struct segment_footer) == 80, "fixed layout");

/* What every CRC of a file of this bucket starts with. `where` is the offset in the file. */
struct format_salt {
    struct uuid cluster_id;
    uint64_t bucket;
    uint64_t segment;
    uint64_t where;
};
_Static_assert(sizeof(struct format_salt) == 40, "no padding: it is hashed as bytes");
