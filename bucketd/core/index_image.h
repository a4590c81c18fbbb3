/* An index file being built in memory: begin, fill the sections, finish, write. Only index_*.c
 * include this. */
#pragma once

#include "bucketd/core/env.h"
#include "bucketd/core/index_format.h"

/* Zeros but for what was filled in so far. */
struct index_image {
    uint8_t *bytes; /* malloc'ed; freed by who began it */
    struct index_header header;
    struct index_layout layout;
};

/* The header's seed and counts are set; gets the memory. */
void index_image_begin(struct index_image *image, enum index_kind kind,
                       const struct format_salt *salt);
/* Fills in CRCs and header. */
void index_image_finish(struct index_image *image, enum index_kind kind,
                        const struct format_salt *salt);
/* As <dir>/<name>.new, synced, renamed; the directory is the caller's to sync. */
enum err index_image_write(const struct index_image *image, struct disk *disk, const char *dir,
                           const char *name) MUST_CHECK;
