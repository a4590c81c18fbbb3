/* For tests of index files. */
#pragma once

#include <stdio.h>

#include "bucketd/core/index.h"
#include "bucketd/core/index_format.h"
#include "common/assert.h"
#include "tests/unit/bucketd/mem_disk.h"

/* The bytes of one of the index files in `dir`. */
static inline struct buf *index_file_bytes_in(struct mem_disk *mem, const char *dir,
                                              enum index_kind kind)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, index_file_names[kind]);
    struct buf *bytes = mem_disk_bytes(mem, path);
    ASSERT(bytes != NULL);
    return bytes;
}

/* Makes all CRCs of a changed file right again, as far as its header and size allow. */
static inline void sign_index_file(struct buf *file, enum index_kind kind)
{
    struct index_header header;
    struct index_layout layout;
    if (file->len < INDEX_PAGE)
        return;
    memcpy(&header, file->ptr, sizeof header);
    const struct format_salt salt = {header.cluster_id, header.bucket, header.segment, 0};
    if (index_layout(&header, kind, &layout) && layout.file_bytes == file->len) {
        for (uint64_t page = 1; page < layout.pages; page++)
            store_u32(file->ptr + layout.page_crcs + page * sizeof(uint32_t),
                      index_page_crc(&salt, kind, page, file->ptr + page * INDEX_PAGE));
        header.pages_crc = index_pages_crc(
            &salt, kind, span_of(file->ptr + layout.page_crcs, layout.pages * sizeof(uint32_t)));
        memcpy(file->ptr, &header, sizeof header);
    }
    header.crc = index_header_crc(&salt, kind, file->ptr);
    memcpy(file->ptr, &header, sizeof header);
}
