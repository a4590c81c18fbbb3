/* One mapped index file: checked when it is opened, its pages when they are first touched. Only
 * index_file_*.c include this. Lookups may run in several threads at once: all they change is the
 * bitmap, whose bits only ever become set. */
#pragma once

#include "bucketd/core/index_format.h"
#include "bucketd/core/index_internal.h"

struct index_file {
    enum index_kind kind;
    struct span view; /* of the whole file; borrowed */
    struct format_salt salt;
    struct index_header header;
    struct index_layout layout;
    uint8_t *checked; /* one bit per page */
};

struct index_files {
    struct index_file file[INDEX_FILES]; /* by enum index_kind */
};

/* A view of the whole file, at least a page long; the caller unmaps it. */
enum err index_file_map(struct disk *disk, const char *path, struct span *ret_view) MUST_CHECK;
/* Checks header, size, table of page CRCs and bloom filter. salt NULL: as the header says. On error
 * nothing is held. */
enum err index_file_init(struct index_file *file, enum index_kind kind, struct span view,
                         const struct format_salt *salt) MUST_CHECK;
/* Frees memory; the view stays its owner's. */
void index_file_release(struct index_file *file);
size_t index_file_memory(const struct index_file *file);
/* `len` bytes at `offset`, once their pages were found whole; NULL where one isn't, or they lie
 * beyond the data. */
const uint8_t *index_file_at(struct index_file *file, uint64_t offset, uint64_t len);

/* The entry, its list checked to lie within the lists. ERR_CORRUPT. */
enum err index_file_stream(struct index_file *file, uint32_t slot,
                           struct sidx_entry *ret_entry) MUST_CHECK;
enum err index_file_partition(struct index_file *file, uint32_t slot,
                              struct pidx_entry *ret_entry) MUST_CHECK;
/* The name of an entry; ptr NULL: damaged. */
struct span index_file_name(struct index_file *file, const struct sidx_entry *entry);
/* i-th position of a list of an entry that was checked. */
enum err index_file_position(struct index_file *file, uint32_t list, uint32_t count, uint32_t i,
                             uint32_t *ret_position) MUST_CHECK;
/* The entries of a bucket: [*ret_from, *ret_to). ERR_CORRUPT. */
enum err index_file_bucket(struct index_file *file, uint32_t bucket, uint32_t *ret_from,
                           uint32_t *ret_to) MUST_CHECK;
