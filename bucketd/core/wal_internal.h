/* What the files of the log share among themselves: wal.c (open group, flush), wal_append.c
 * (records), wal_undo.c (what isn't committed, and configurations), wal_segment.c (files, space,
 * rollover), wal_recover.c (start), wal_scan.c (reading segments), wal_front.c (their front and
 * end), wal_decode.c (checks and decoding; pure). */
#pragma once

#include "bucketd/core/wal.h"
#include "common/assert.h"
#include "common/limits.h"

/* A group leaves when it has grown to this, unless one entry alone is larger. */
#define WAL_GROUP_BYTES (4ull << 20)
/* Zeros are written and synced in pieces, so that a flush never waits long behind them. */
#define WAL_ZERO_BYTES (256u << 10)
#define WAL_STEP_MIN   (64ull << 10)
#define WAL_STEP_MAX   (8ull << 20)
/* What must fit behind every group: one witness (an empty batch) and the footer. */
#define WAL_WITNESS_BYTES (2 * sizeof(struct batch_mark))
#define WAL_RESERVE_BYTES (WAL_WITNESS_BYTES + sizeof(struct segment_footer))
/* A segment that has to grow beyond its configured size ends here: positions have 32 bits. */
#define WAL_SEGMENT_BYTES_MAX ((uint64_t)UINT32_MAX * POSITION_UNIT)
/* However small segments are configured: so much data fits in one. */
#define WAL_DATA_BYTES_MIN 4096u
/* Segments up to this size prepare their successor at once, larger ones when they are half full. */
#define WAL_SPARE_AT_ONCE_BYTES (1ull << 20)
/* Compression is tried from this many bytes of metadata and payload on. */
#define WAL_COMPRESS_BYTES_MIN 128u
/* No idx, term or count grows so far in earnest. */
#define WAL_NUMBER_MAX (1ull << 62)
#define WAL_READ_BYTES (1u << 20)

/* --- wal_decode.c --- */

/* CRC state over the part of the salt that is the same in a whole segment. */
uint32_t wal_salt_base(const struct format_salt *salt);

/* CRC of bytes that lie at `where`. */
uint32_t wal_crc(uint32_t base, uint64_t where, const void *bytes, size_t len);
/* CRC of a struct at `where` whose 4-byte crc field at crc_at counts as zeros. */
uint32_t wal_crc_struct(uint32_t base, uint64_t where, const void *bytes, size_t len,
                        size_t crc_at);

uint64_t wal_chain_entry(uint64_t chain, const struct entry_head *head);
uint64_t wal_chain_bytes(uint64_t chain, const void *bytes, size_t len);

bool wal_mark_valid(uint32_t base, uint64_t where, const struct batch_mark *mark, uint64_t magic);

/* Lengths and kind that no whole entry could contradict. */
bool wal_entry_head_plausible(const struct entry_head *head);
/* The body of a CONFIG entry, whose record these bytes are: ERR_CORRUPT where it isn't one, or is
 * of another bucket. Its CRC isn't looked at. */
struct wal_group_id {
    struct uuid cluster_id;
    uint32_t bucket, bucket_count, partition_count;
};
enum err wal_config_parse(struct span entry, const struct wal_group_id *group,
                          struct wal_voters *ret_voters) MUST_CHECK;

/* A decoded event with the bytes the chain covers. */
struct wal_decoded {
    struct event_view view;
    struct span canonical;
    uint32_t index;
    uint32_t len;
    uint32_t data_len; /* without the zeros at its end */
};
/* `bytes` begins at the event and may be longer than it. */
enum err wal_decode(uint32_t base, uint64_t entry_offset, const struct entry_head *head,
                    uint64_t event_offset, struct span bytes, struct buf *scratch,
                    struct wal_decoded *ret) MUST_CHECK;
/* All of that but the CRC, which is of another place: `distance` from its entry's head. */
enum err wal_decode_unsalted(const struct entry_head *head, uint64_t distance, struct span bytes,
                             struct buf *scratch, struct wal_decoded *ret) MUST_CHECK;

static inline uint32_t wal_slot_count(uint32_t bucket, uint32_t bucket_count,
                                      uint32_t partition_count)
{
    return bucket >= partition_count ? 0 : (partition_count - bucket - 1) / bucket_count + 1;
}

/* --- state of the log at one place --- */

struct wal_state {
    uint64_t term, voted_for;
    uint64_t last_idx, last_term, last_chain;
    uint64_t batch_no;  /* of the last batch */
    uint64_t events;    /* stored in the bucket up to here */
    uint64_t *next_seq; /* by slot = partition / bucket_count */
};

/* --- entries as bytes, wherever they come from (wal_decode.c) --- */

/* Whether this record is a whole entry, the next one after this state, and chained to it. CRCs
 * aren't looked at (they are of another place), neither is first_seq. *ret_voters: of a CONFIG.
 * ERR_CORRUPT. */
enum err wal_entry_follows(const struct wal_group_id *group, const struct wal_state *state,
                           struct span bytes, struct buf *scratch,
                           struct wal_voters *ret_voters) MUST_CHECK;
/* The chain after an entry from that before it. ERR_CORRUPT: its lengths contradict one another. */
enum err wal_entry_chain(struct span bytes, uint64_t chain, struct buf *scratch,
                         uint64_t *ret_chain) MUST_CHECK;
/* Sets the CRCs of a whole entry, head included, for where it stands now. */
void wal_entry_sign(uint32_t base, uint64_t where, uint8_t *entry);

/* --- wal_undo.c: what a cut takes back --- */

struct wal_config_at {
    uint64_t idx;
    struct wal_voters voters;
};

/* The entries above commit_idx, and the configurations: the one in force at commit_idx, then those
 * above it. Zeroed is valid to release; wal_undo_begin before anything else. */
struct wal_undo {
    uint64_t commit_idx, commit_term, commit_chain;
    bool commit_known;       /* term and chain are: not where damage hides that entry */
    struct tail_entry *ring; /* entry idx is at idx & (cap - 1) */
    uint64_t first;          /* listed are first .. first + count - 1 */
    uint64_t count, cap;
    struct wal_config_at *configs;
    uint32_t configs_len, configs_cap;
};
/* Nothing is uncommitted at this state. */
void wal_undo_begin(struct wal_undo *undo, const struct wal_state *state,
                    const struct wal_config_at *config);
void wal_undo_release(struct wal_undo *undo);
/* Where the list isn't empty the entry follows its last one. */
void wal_undo_push(struct wal_undo *undo, const struct tail_entry *entry);
void wal_undo_config(struct wal_undo *undo, uint64_t idx, const struct wal_voters *voters);
const struct tail_entry *wal_undo_find(const struct wal_undo *undo, uint64_t idx);
bool wal_undo_point(const struct wal_undo *undo, uint64_t idx, uint64_t *ret_term,
                    uint64_t *ret_chain);
void wal_undo_commit(struct wal_undo *undo, uint64_t idx);
const struct wal_config_at *wal_undo_in_force(const struct wal_undo *undo);
/* Takes the entries >= from_idx (> commit_idx) from the list and from the state's sequences, events
 * and last_*; false: the entry before from_idx isn't known, and last_term and last_chain are not
 * right. */
struct wal_undone {
    uint64_t entries, events;
};
bool wal_undo_cut(struct wal_undo *undo, uint64_t from_idx, uint32_t bucket_count,
                  struct wal_state *state, struct wal_undone *ret_undone);

/* --- wal_scan.c --- */

/* A file read through a window. */
struct wal_reader {
    struct disk *disk;
    struct file *file;
    uint64_t size;
    struct buf window;
    uint64_t start; /* offset of the window's first byte */
};
enum err wal_reader_open(struct wal_reader *reader, struct disk *disk, const char *path) MUST_CHECK;
void wal_reader_close(struct wal_reader *reader);
/* *ret_bytes stays valid until the next call; aligned as `offset` is. ERR_TRUNCATED: the file ends
 * before. */
enum err wal_reader_get(struct wal_reader *reader, uint64_t offset, size_t len,
                        const uint8_t **ret_bytes) MUST_CHECK;

/* The fixed front part and, where there is one, the footer. */
struct wal_front {
    struct segment_header header;
    bool header_bad; /* damaged; then `header` is made from the salt and the counts given */
    struct checkpoint checkpoint;
    unsigned checkpoints_bad; /* copies, 0..2 */
    bool sealed;
    struct segment_footer footer;
};
/* Reads it all. `expected` (may be NULL: whatever the header says, if it is of the salt's bucket)
 * also stands in for a header that is damaged. *ret_next_seq: malloc'ed, by slot. ERR_CORRUPT, with
 * text in `what`: the header is whole but says something else than expected; it is damaged and
 * nothing was expected; both copies of the checkpoint are bad. */
enum err wal_front_read(struct wal_reader *reader, const struct format_salt *salt,
                        const struct segment_header *expected, struct wal_front *ret,
                        uint64_t **ret_next_seq, struct buf *what) MUST_CHECK;
/* What a header of this configuration looks like, without its CRC. */
struct segment_header wal_header_make(const struct wal_config *config, uint64_t segment,
                                      uint64_t disk_id);

/* One pass over the batches of a segment. In: the first group of fields. */
struct wal_pass {
    struct wal_reader *reader;
    struct format_salt salt;
    uint32_t bucket_count, partition_count;
    const struct wal_scan *scan;
    bool deep;     /* every event and the chain too */
    bool complete; /* nothing can be torn: sealed, or another segment follows */
    bool all_torn; /* a planted bug: rot is cut like a torn tail */
    uint64_t data_start;
    uint64_t data_limit;    /* where the footer begins, or the file ends */
    struct wal_state state; /* at data_start; moved along */
    struct wal_undo undo;   /* entries above the highest commit hint */

    uint32_t base;
    uint64_t data_end;
    uint64_t batches, entries, events, first_idx;   /* entries that live */
    uint64_t last_offset, last_bytes, last_records; /* the last batch */
    uint64_t torn_bytes;
    uint64_t write_at;                             /* behind data_end and all that isn't zero */
    uint64_t problems, rots, rot_offset, rot_last; /* first and last rot */
    bool gap;                                      /* the batch before this one is missing */
    bool gapped;                                   /* one was */
    bool blind;       /* what stands before the next entry isn't known ... */
    bool adrift;      /* ... and state.last_* is not of an entry that was read */
    bool cut_blind;   /* behind a gap: sequences are no longer known either */
    bool end_unknown; /* the last bad place may hide batches that nobody tells of */
    uint64_t hole_first, hole_last;
    struct buf scratch;
};
/* Sets the pass to the front's data and state (but for next_seq). */
void wal_pass_begin(struct wal_pass *pass, const struct wal_front *front);
enum err wal_pass_run(struct wal_pass *pass) MUST_CHECK;
void wal_pass_release(struct wal_pass *pass);

/* --- the writer --- */

/* The bytes of one batch, head first. */
struct wal_group {
    struct buf bytes;
    struct lsn at; /* of its head */
    struct file *file;
    uint64_t number; /* of the batch; set by wal_group_mark, as also ... */
    uint64_t first_idx,
        last_idx; /* ... last_idx, which a cut lowers while the group is in flight */
    uint32_t records;
    bool rolls; /* opens a new segment */
};

/* A segment's file, opened twice. The kernel tells each handle once of a write that failed later:
 * if one handle served both, a job that prepares space could take the error away from the flush
 * that it was about, and that flush would answer for bytes that never reached the disk. */
struct wal_handles {
    struct file *log;   /* flushes, rollover */
    struct file *space; /* preparation of space */
};
void wal_handles_close(struct disk *disk, struct wal_handles *handles);

/* What the flush of a group that opens a new segment does before it. */
struct wal_roll {
    struct wal_handles old;
    uint64_t old_segment;
    uint32_t old_base;
    bool footer_needed;
    struct segment_footer footer;
    struct segment_header header;
    struct buf checkpoint; /* one copy */
};

struct wal_flush_job {
    struct job job;
    struct wal *wal;
    struct wal_group *group;
    struct wal_roll *roll; /* NULL: none */
    uint32_t base;
    enum err result;
    const char *what; /* that failed */
};

/* Allocates and zeroes [from, to) of a file: the open segment's, or the spare's, which it makes. */
struct wal_space_job {
    struct job job;
    struct wal *wal;
    bool running;
    struct wal_handles files; /* `space` is what the job works on */
    uint64_t segment;
    uint64_t from, need, to; /* need <= to: what must be had at least */
    const uint8_t *zeros;    /* WAL_ZERO_BYTES of them */
    uint64_t reached;
    enum err result;
};

struct wal {
    struct wal_config config;
    struct env *env;
    struct wal_callbacks callbacks;
    uint32_t slots;

    uint64_t disk_id;
    struct wal_state tail;
    struct wal_undo undo;
    uint64_t durable_idx, durable_batch;
    struct lsn durable; /* end of what is synced */
    struct lsn head;    /* where the open group's batch begins */
    uint64_t *checkpoint_seq;
    uint64_t events_before;

    /* The segment records go to. */
    struct wal_handles files;
    uint64_t zeroed_end; /* allocated and zeroed up to here */
    uint64_t data_limit; /* groups, reserve included, end here at the latest */
    uint64_t step;
    uint64_t segment_batches, segment_entries, segment_events, segment_first_idx;
    uint32_t base; /* salt */
    bool sealed;   /* complete on disk: the next group must roll */
    bool witness_due;

    /* The next one. */
    struct wal_handles spare;
    uint64_t spare_zeroed;

    struct wal_group groups[2];
    struct wal_group *open;
    struct wal_flush_job flush;
    struct wal_roll roll;
    struct wal_space_job ahead;     /* extends the open segment */
    struct wal_space_job spare_job; /* makes or extends the spare */
    struct buf compressed;
    void *lz4;
    uint8_t *zeros;

    uint64_t disk_bytes;
    bool flushing, disk_full, damaged, failed, brief;
    bool votes_only; /* damaged, but VOTE records can be written behind the damage */
    bool opening;    /* in wal_open: space is prepared at once, not by jobs */
};

/* More than one replica: durable isn't committed, and entries may be cut. */
static inline bool wal_replicated(const struct wal *wal)
{
    return wal->config.replica_count > 1;
}

/* wal.c */
void wal_group_open(struct wal *wal, struct wal_group *group);
/* Completes head and tail of a group: number, CRCs. `synced` and `hint` as known when it is
 * written. */
void wal_group_mark(struct wal *wal, struct wal_group *group);
void wal_group_finish(struct wal_group *group, uint32_t base);
void wal_failed(struct wal *wal, enum err err, const char *what);

/* wal_append.c */
/* Encodes the CONFIG entry of idx 1, made from the settings. */
void wal_append_settings(struct wal *wal);

/* wal_segment.c */
void wal_data_path(uint64_t segment, bool is_new, char text[static 48]);
struct format_salt wal_salt(const struct wal *wal, uint64_t segment);
/* Where groups and reserve must end in a segment. */
uint64_t wal_limit(const struct wal_config *config, uint64_t data_start);
uint64_t wal_data_start(uint32_t slots);
uint64_t wal_step(const struct wal_config *config);
/* Renders one copy of the checkpoint of the tail state, without CRC. */
void wal_checkpoint_make(const struct wal *wal, struct buf *out);
/* The same of any state, with the configuration in force there. */
void wal_checkpoint_render(const struct wal_config *config, uint64_t disk_id,
                           const struct wal_state *state, const struct wal_config_at *in_force,
                           struct buf *out);
/* The head moves to the beginning of a segment that is about to be opened; the tail is its
 * checkpoint's state. */
void wal_segment_begin(struct wal *wal, uint64_t segment, struct wal_handles files,
                       uint64_t zeroed_end);
/* Writes header and both copies; not synced. */
enum err wal_front_write(struct disk *disk, struct file *file, uint32_t base,
                         struct segment_header *header, struct buf *checkpoint) MUST_CHECK;
/* Writes it, cuts the file behind it, syncs. */
enum err wal_footer_write(struct disk *disk, struct file *file, uint32_t base,
                          struct segment_footer *footer) MUST_CHECK;
/* Gives data.new its name, durably. */
enum err wal_publish(struct disk *disk, uint64_t segment) MUST_CHECK;
/* Whether records of `bound` fit behind the open group's records; starts what is missing. */
enum err wal_space_fits(struct wal *wal, uint64_t bound, enum wal_room room) MUST_CHECK;
/* Starts preparing what will be needed soon. */
void wal_space_poll(struct wal *wal);
/* The work of the spare's job: makes the file, gets the space. */
enum err wal_spare_prepare(struct wal_space_job *job, struct disk *disk) MUST_CHECK;
enum err wal_roll_write(struct wal_flush_job *job, struct disk *disk) MUST_CHECK;
/* Writes zeros to [from, to), synced piece by piece. */
enum err wal_zero(struct disk *disk, struct file *file, const uint8_t *zeros, uint64_t from,
                  uint64_t to, uint64_t *ret_reached) MUST_CHECK;
