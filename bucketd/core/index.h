/* One segment's index, in either of two forms with one interface: in memory (the open segment, and
 * a sealed one until its files are written) or in three immutable files that are mapped (eidx,
 * sidx, pidx).
 *
 * A position is the offset of an event_head in data.evts, in units of 8 bytes. The index knows
 * nothing of watermarks: who asks filters by sequence.
 *
 * Streams are found by (partition, stream id); the partition key is stored with them: a stream has
 * one owner key in its partition (WIRE.md). A segment knows only the versions of a stream that lie
 * in it: first_version .. first_version
 * + count - 1, without holes. The same for a partition's sequences.
 *
 * Files: header, bloom filter, tables; a CRC32C per 4 KiB page in a table at the end, itself CRC'd.
 * A page is checked when it is first touched (a bitmap remembers), so that opening costs little and
 * damage is never believed: a lookup that meets a bad page returns ERR_CORRUPT, and the owner
 * rebuilds the file from data.evts. */
#pragma once

#include "bucketd/core/env.h"
#include "bucketd/core/format.h"

struct index;

struct index_event {
    struct uuid event_id;
    uint32_t partition;
    uint64_t sequence;
    uint64_t version;
    struct uuid partition_key;
    struct span stream;
    uint32_t position;
};

struct index_stream {
    struct uuid partition_key;
    uint64_t first_version;
    uint32_t count;
    uint32_t slot; /* for index_stream_position */
};

struct index_partition {
    uint64_t first_seq;
    uint32_t count;
    uint32_t slot; /* for index_partition_position */
};

/* --- in memory --- */
/* hash_seed: a secret of the process, so that clients can't choose colliding keys. */
struct index *index_new(uint64_t hash_seed);
/* Events come in log order: versions and sequences ascend by one within a stream and a partition
 * (ASSERTed). */
void index_add(struct index *index, const struct index_event *event);
/* Takes the newest event back (used when a tail is cut). */
void index_pop(struct index *index);
uint32_t index_event_count(const struct index *index);
/* Bytes of memory held. */
size_t index_memory(const struct index *index);

/* --- in files --- */
#define INDEX_FILES 3
extern const char
    *const index_file_names[INDEX_FILES]; /* "index.eidx", "partition.pidx", "stream.sidx" */

/* Writes the three files of an in-memory index into `dir` ("segments/0000000003"), each as
 * <name>.new, synced, renamed; then the directory is synced. Runs in a job: the index must not
 * change meanwhile (lookups may go on). `salt` names the segment (where is ignored). */
enum err index_write(const struct index *index, struct disk *disk, const char *dir,
                     const struct format_salt *salt) MUST_CHECK;
/* Maps the three files. ERR_NOTFOUND: one is missing; ERR_CORRUPT: a header, bloom filter or size
 * is wrong, or the salt is another's; ERR_IO. Checks headers and bloom filters at once, pages when
 * touched. */
enum err index_open(struct disk *disk, const char *dir, const struct format_salt *salt,
                    struct index **ret_index) MUST_CHECK;
bool index_is_mapped(const struct index *index);
size_t index_file_bytes(const struct index *index);
/* Walks every page: ERR_CORRUPT where one is damaged or the tables contradict each other. For
 * `verify`. */
enum err index_check_all(struct index *index) MUST_CHECK;

/* Frees memory, or unmaps; the files stay. disk is needed for a mapped index only. */
void index_free(struct index *index, struct disk *disk);

/* --- lookups, both forms ---
 * Several threads may look up at once while nobody adds or pops. What index_find_stream and
 * index_find_partition return is valid until the next index_pop, and only for this index. */
/* ERR_OK, ERR_NOTFOUND, ERR_CORRUPT. Files match an event id by 32 bits of its hash and more:
 * *ret_position is a candidate whose id the caller compares; `skip` = how many candidates to pass
 * over (0 at first). In memory the id itself is compared. */
enum err index_find_event(struct index *index, const struct uuid *event_id, uint32_t skip,
                          uint32_t *ret_position) MUST_CHECK;
/* Exact: the stream id itself is compared. */
enum err index_find_stream(struct index *index, uint32_t partition, struct span stream,
                           struct index_stream *ret_stream) MUST_CHECK;
enum err index_find_partition(struct index *index, uint32_t partition,
                              struct index_partition *ret_partition) MUST_CHECK;
/* i-th event of the stream (partition) in this segment, i < count. */
enum err index_stream_position(struct index *index, const struct index_stream *stream, uint32_t i,
                               uint32_t *ret_position) MUST_CHECK;
enum err index_partition_position(struct index *index, const struct index_partition *partition,
                                  uint32_t i, uint32_t *ret_position) MUST_CHECK;

/* --- summaries --- */

/* What event ids and streams a whole run of segments holds: one look spares that many, so that what
 * isn't there (a new stream, an unknown id) or is old stays cheap to find however many segments
 * there are. Made from the index files of INDEX_SUMMARY_SEGMENTS segments, the first a multiple of
 * that. */
#define INDEX_SUMMARY_SEGMENTS 32u

struct index_summary;

/* Builds summaries/<first>.sum; salt->segment is the first. Runs in a job. ERR_NOTFOUND,
 * ERR_CORRUPT: of an index file. */
enum err index_summary_write(struct disk *disk, const struct format_salt *salt) MUST_CHECK;
/* ERR_NOTFOUND, ERR_CORRUPT, ERR_IO. */
enum err index_summary_open(struct disk *disk, const struct format_salt *salt,
                            struct index_summary **ret_summary) MUST_CHECK;
void index_summary_free(struct index_summary *summary, struct disk *disk);
/* False: surely in none of the segments. True also where the filter is damaged. */
bool index_summary_has_event(struct index_summary *summary, const struct uuid *event_id);
bool index_summary_has_stream(struct index_summary *summary, uint32_t partition,
                              struct span stream);
/* A look met a bad page: it should be made anew. */
bool index_summary_damaged(const struct index_summary *summary);

/* For `sierradb dump`: prints any index file or summary as text, checking all of it. */
enum err index_dump(struct span file, void (*line)(void *ctx, const char *text),
                    void *ctx) MUST_CHECK;
