/* Index files with any bytes: opening, lookups, check and dump never read beyond a file, and end.
 *
 * The first byte chooses: raw bytes for the dump, or edits of three whole files, each {kind, offset
 * u24, value}, signed again or not. Signing lets damage through that CRCs would stop. */
#include "tests/unit/bucketd/index_support.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

#define DIR     "s"
#define EVENTS  70u
#define STREAMS 20u

static const struct format_salt salt = {.cluster_id = {{9}}, .bucket = 1, .segment = 2};

static struct index_event event_number(uint32_t i, uint64_t *name)
{
    struct index_event event = {
        .partition = i % STREAMS % 3,
        .version = i / STREAMS,
        .position = 1000 + 20 * i,
        .event_id = {{(uint8_t)i, 7, (uint8_t)(i * 5)}},
    };
    /* Streams go round, so a partition's sequence counts whole rounds and the part of this one. */
    uint32_t per_round = event.partition == 2 ? STREAMS / 3 : STREAMS / 3 + 1;
    event.sequence = i / STREAMS * per_round + i % STREAMS / 3;
    *name = i % STREAMS * 0x0101010101u;
    event.stream = span_of(name, 1 + i % STREAMS % 8);
    return event;
}

static void ignore_line(void *ctx, const char *text)
{
    (void)ctx;
    (void)text;
}

static void walk_stream(struct index *index, const struct index_stream *stream)
{
    for (uint32_t i = 0; i < stream->count; i++) {
        uint32_t position;
        if (index_stream_position(index, stream, i, &position) != ERR_OK)
            return;
    }
}

static void walk_partition(struct index *index, const struct index_partition *partition)
{
    for (uint32_t i = 0; i < partition->count; i++) {
        uint32_t position;
        if (index_partition_position(index, partition, i, &position) != ERR_OK)
            return;
    }
}

static void look_up_all(struct index *index)
{
    for (uint32_t i = 0; i < EVENTS + 5; i++) {
        uint64_t name;
        struct index_event event = event_number(i, &name);
        uint32_t position;
        struct index_stream stream;
        struct index_partition partition;
        for (uint32_t skip = 0; index_find_event(index, &event.event_id, skip, &position) == ERR_OK;
             skip++)
            ;
        if (index_find_stream(index, event.partition, event.stream, &stream) == ERR_OK)
            walk_stream(index, &stream);
        if (index_find_partition(index, event.partition, &partition) == ERR_OK)
            walk_partition(index, &partition);
    }
}

static void write_files(struct mem_disk *disk)
{
    struct index *index = index_new(4);
    enum err err = disk->disk.ops->mkdir(&disk->disk, DIR);
    ASSERT(err == ERR_OK);
    for (uint32_t i = 0; i < EVENTS; i++) {
        uint64_t name;
        struct index_event event = event_number(i, &name);
        index_add(index, &event);
    }
    err = index_write(index, &disk->disk, DIR, &salt);
    ASSERT(err == ERR_OK);
    index_free(index, NULL);
}

/* Edits reach the data densely: offsets count from the header's fields or from the first page
 * behind it. */
static void edit_files(struct mem_disk *disk, const uint8_t *bytes, size_t len, bool sign)
{
    for (; len >= 5; bytes += 5, len -= 5) {
        struct buf *file =
            index_file_bytes_in(disk, DIR, (enum index_kind)(bytes[0] % INDEX_FILES));
        size_t offset = load_u16(bytes + 1) | (size_t)bytes[3] << 16;
        if (bytes[0] & 0x80)
            offset %= sizeof(struct index_header);
        else if ((bytes[0] & 0x40) == 0)
            offset = INDEX_PAGE + offset % INDEX_PAGE;
        file->ptr[offset % file->len] = bytes[4];
    }
    for (enum index_kind kind = INDEX_EVENTS; sign && kind < INDEX_FILES; kind++)
        sign_index_file(index_file_bytes_in(disk, DIR, kind), kind);
}

/* In memory of exactly its size, so that the address sanitizer sees every byte read beyond. */
static void dump_copy(const struct buf *file)
{
    uint8_t *copy = malloc(file->len);
    ASSERT(copy != NULL);
    memcpy(copy, file->ptr, file->len);
    enum err err = index_dump(span_of(copy, file->len), ignore_line, NULL);
    (void)err;
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return 0;
    if (bytes[0] % 4 == 0) {
        enum err err = index_dump(span_of(bytes + 1, len - 1), ignore_line, NULL);
        (void)err;
        return 0;
    }
    struct mem_disk *disk = mem_disk_new();
    write_files(disk);
    edit_files(disk, bytes + 1, len - 1, bytes[0] % 4 != 1);
    struct index *index;
    if (index_open(&disk->disk, DIR, &salt, &index) == ERR_OK) {
        look_up_all(index);
        enum err err = index_check_all(index);
        (void)err;
        index_free(index, &disk->disk);
    }
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++)
        dump_copy(index_file_bytes_in(disk, DIR, kind));
    mem_disk_free(disk);
    return 0;
}
