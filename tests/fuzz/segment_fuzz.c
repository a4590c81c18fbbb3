/* A data.evts with any bytes: recovery and the scan of `verify` never read beyond it, never believe
 * a contradiction, and end.
 *
 * The input edits a whole segment (uncompressed, compressed and several-event transactions,
 * configurations, cuts): first byte = what is signed again afterwards (1 events and configurations,
 * 2 record heads, 4 batches, 8 header and checkpoint) and whether the log that recovers is one of
 * several replicas (16) that has committed nothing more, then edits of {offset u24, length u8,
 * bytes}. Signing lets contradictions through that the CRCs would stop. */
#include <stdlib.h>

#include "bucketd/core/wal_internal.h"
#include "tests/unit/bucketd/mem_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

#define DATA        "segments/0000000000/data.evts"
#define PIECES      400u
#define SIGN_EVENT  1
#define SIGN_RECORD 2
#define SIGN_BATCH  4
#define SIGN_FRONT  8
#define REPLICATED  16

/* Where the parts of the untouched segment lie. */
struct piece {
    int kind; /* SIGN_* */
    size_t at, len;
};

struct image {
    struct buf bytes;
    struct piece pieces[PIECES];
    size_t count;
};

static const struct wal_config config = {.cluster_id = {{5}},
                                         .node = 0,
                                         .bucket = 1,
                                         .bucket_count = 2,
                                         .partition_count = 6,
                                         .segment_bytes = 64 << 10,
                                         .compression = true,
                                         .replicas = {0, 1, 2},
                                         .replica_count = 3};

static void note(struct image *image, int kind, size_t at, size_t len)
{
    ASSERT(image->count < PIECES);
    image->pieces[image->count++] = (struct piece){.kind = kind, .at = at, .len = len};
}

static void note_batch(void *ctx, const struct batch_mark *head)
{
    note(ctx, SIGN_BATCH, head->offset, head->bytes);
}

static void note_record(void *ctx, uint64_t offset, const struct record_head *record)
{
    note(ctx, SIGN_RECORD, offset,
         record->kind == RECORD_ENTRY ? sizeof(struct entry_head) : sizeof(struct vote_record));
}

static void note_entry(void *ctx, const struct wal_entry *entry)
{
    size_t at = sizeof *entry->head;
    if (entry->head->record.entry_kind == ENTRY_CONFIG)
        note(ctx, SIGN_EVENT, entry->offset + at, entry->bytes.len - at);
    for (uint32_t i = 0; i < entry->head->record.count; i++) {
        size_t len = load_u32(entry->bytes.ptr + at + offsetof(struct event_head, len));
        note(ctx, SIGN_EVENT, entry->offset + at, len);
        at += len;
    }
}

static void append(struct wal *wal, uint32_t i)
{
    static const uint8_t text[700] = "some text, then zeros, which compress well";
    struct wal_event events[3];
    struct uuid id = {{(uint8_t)i, 1}};
    uint32_t positions[3], count = 1 + i % 3;
    for (uint32_t e = 0; e < count; e++)
        events[e] = (struct wal_event){.event_id = {{(uint8_t)i, (uint8_t)e}},
                                       .version = i,
                                       .timestamp_ns = i,
                                       .stream = span_of(text, 1 + i % 9),
                                       .name = span_of(text, e),
                                       .metadata = span_of(text, i % 5),
                                       .payload = span_of(text, i * 37 % sizeof text)};
    if (wal_fits(wal, wal_entry_bound(events, count), ROOM_WAIT) == ERR_OK)
        wal_append_tx(wal, 1 + 2 * (i % 3), &id, &id, events, count, positions);
}

static void image_make(struct image *image)
{
    struct mem_disk *mem = mem_disk_new();
    struct wal_callbacks callbacks = {0};
    struct wal_recovery recovery;
    struct wal *wal = wal_new(&config, &mem->env, &callbacks);
    enum err err = wal_open(wal, &recovery);
    ASSERT(err == ERR_OK && wal_fits(wal, WAL_TERM_BOUND, ROOM_MUST) == ERR_OK);
    wal_append_vote(wal, 1, 1);
    wal_append_noop(wal);
    struct wal_voters voters = {.count = 4, .list = {{0, 1, 1}, {1, 1, 2}, {2, 2, 3}, {3, 1, 4}}};
    for (uint32_t i = 0; i < 24; i++) {
        append(wal, i);
        if (i % 8 == 6) {
            voters.count--;
            wal_append_config(wal, &voters);
        }
        if (i % 6 == 3) /* in one batch, and across several */
            wal_append_cut(wal, wal_last_idx(wal) - i / 6, 1);
        if (i == 12)
            wal_commit(wal, 5);
        if (i % 5 == 4) {
            wal_flush(wal);
            mem_disk_settle(mem);
        }
    }
    wal_flush(wal);
    mem_disk_settle(mem);
    struct format_salt salt = {.cluster_id = config.cluster_id, .bucket = config.bucket};
    struct wal_scan scan = {
        .ctx = image, .on_batch = note_batch, .on_record = note_record, .on_entry = note_entry};
    struct wal_scan_result result;
    err = wal_scan_segment(&mem->disk, 0, &salt, &scan, &result);
    ASSERT(err == ERR_OK && result.problems == 0 && result.events > 20);
    buf_append(&image->bytes, mem_disk_bytes(mem, DATA)->ptr, result.data_end + 4096);
    wal_free(wal);
    mem_disk_free(mem);
}

/* --- signing --- */

static void sign_head(uint32_t base, uint8_t *file, const struct piece *piece)
{
    store_u32(file + piece->at, wal_crc(base, piece->at, file + piece->at + 4, piece->len - 4));
}

static void sign_mark(uint32_t base, uint8_t *file, size_t at)
{
    size_t crc_at = offsetof(struct batch_mark, crc);
    store_u32(file + at + crc_at,
              wal_crc_struct(base, at, file + at, sizeof(struct batch_mark), crc_at));
}

static void sign_batch(uint32_t base, uint8_t *file, const struct piece *piece)
{
    size_t mark = sizeof(struct batch_mark), tail = piece->at + piece->len - mark;
    /* What the head says the tail has to say too, or it would be found out at once. */
    size_t same = offsetof(struct batch_mark, number);
    memcpy(file + tail + same, file + piece->at + same, mark - same);
    store_u32(file + tail + offsetof(struct batch_mark, body_crc),
              wal_crc(base, piece->at + mark, file + piece->at + mark, piece->len - 2 * mark));
    sign_mark(base, file, piece->at);
    sign_mark(base, file, tail);
}

static void sign_front(uint32_t base, uint8_t *file)
{
    size_t crc_at = offsetof(struct segment_header, crc);
    store_u32(file + crc_at, wal_crc_struct(base, 0, file, FORMAT_BLOCK, crc_at));
    size_t slots = wal_slot_count(config.bucket, config.bucket_count, config.partition_count);
    size_t len = sizeof(struct checkpoint) + slots * sizeof(struct partition_state);
    crc_at = offsetof(struct checkpoint, crc);
    uint8_t *checkpoint = file + FORMAT_BLOCK;
    store_u32(checkpoint + crc_at, wal_crc_struct(base, FORMAT_BLOCK, checkpoint, len, crc_at));
}

static void sign(const struct image *image, uint8_t *file, int kinds)
{
    struct format_salt salt = {.cluster_id = config.cluster_id, .bucket = config.bucket};
    uint32_t base = wal_salt_base(&salt);
    for (int kind = SIGN_EVENT; kind <= SIGN_BATCH; kind *= 2) {
        for (size_t i = 0; i < image->count; i++) {
            const struct piece *piece = &image->pieces[i];
            if (piece->kind != kind || (kinds & kind) == 0)
                continue;
            if (kind == SIGN_BATCH)
                sign_batch(base, file, piece);
            else
                sign_head(base, file, piece);
        }
    }
    if (kinds & SIGN_FRONT)
        sign_front(base, file);
}

/* --- one input --- */

static void edit(struct buf *file, struct span input)
{
    for (size_t at = 0; at + 4 <= input.len;) {
        size_t offset = (load_u32(input.ptr + at) & 0xffffff) % file->len;
        size_t len = min_u64(input.ptr[at + 3], min_u64(input.len - at - 4, file->len - offset));
        memcpy(file->ptr + offset, input.ptr + at + 4, len);
        at += 4 + len;
    }
}

static void put_file(struct mem_disk *mem, struct span bytes)
{
    struct disk *disk = &mem->disk;
    struct file *file = NULL;
    enum err err = disk->ops->mkdir(disk, "segments");
    if (err == ERR_OK)
        err = disk->ops->mkdir(disk, "segments/0000000000");
    if (err == ERR_OK)
        err = disk->ops->open(disk, DATA, OPEN_CREATE, &file);
    if (err == ERR_OK)
        err = disk->ops->pwrite(disk, file, 0, bytes.ptr, bytes.len);
    ASSERT(err == ERR_OK);
    disk->ops->close(disk, file);
}

/* Behind damage a log takes votes or nothing. */
static void vote(struct mem_disk *mem, const struct wal_config *with, struct wal *wal)
{
    enum err err = wal_fits(wal, WAL_TERM_BOUND, ROOM_MUST);
    for (int tries = 0; err == ERR_AGAIN && tries < 3; tries++) {
        mem_disk_settle(mem);
        err = wal_fits(wal, WAL_TERM_BOUND, ROOM_MUST);
    }
    if (err != ERR_OK)
        return;
    struct wal_callbacks callbacks = {0};
    struct wal_recovery recovery;
    uint64_t term = wal_term(wal) + 1, last_idx = wal_last_idx(wal), last = wal_last_term(wal);
    wal_append_vote(wal, term, 1);
    wal_flush(wal);
    mem_disk_settle(mem);
    struct wal *again = wal_new(with, &mem->env, &callbacks);
    err = wal_open(again, &recovery);
    ASSERT(err == ERR_OK && recovery.damaged && wal_term(again) == term);
    ASSERT(wal_last_idx(again) == last_idx && wal_last_term(again) == last);
    wal_free(again);
}

/* What recovery accepts it can go on with, and finds again. */
static void recover(struct mem_disk *mem, bool replicated)
{
    struct wal_callbacks callbacks = {0};
    struct wal_config with = config;
    uint64_t last_idx = 0, chain = 0;
    with.replica_count = replicated ? 3 : 1;
    for (int round = 0; round < 2; round++) {
        struct wal_recovery recovery;
        struct wal *wal = wal_new(&with, &mem->env, &callbacks);
        enum err err = wal_open(wal, &recovery);
        bool usable = err == ERR_OK && !recovery.damaged;
        if (round > 0)
            ASSERT(usable && wal_last_idx(wal) == last_idx && wal_last_chain(wal) == chain);
        if (usable && wal_fits(wal, WAL_TERM_BOUND, ROOM_MUST) == ERR_OK) {
            wal_append_vote(wal, wal_term(wal) + 1, 1);
            wal_append_noop(wal);
            append(wal, 7);
            wal_flush(wal);
            mem_disk_settle(mem);
        }
        if (err == ERR_OK && recovery.damaged)
            vote(mem, &with, wal);
        if (usable && wal_last_idx(wal) > wal_commit_idx(wal) && round == 0) {
            uint64_t from = wal_commit_idx(wal) + 1;
            ASSERT(replicated && wal_tail_entry(wal, from) != NULL);
            if (wal_fits(wal, WAL_CUT_BOUND, ROOM_MUST) == ERR_OK)
                wal_append_cut(wal, from, wal_term(wal));
            wal_flush(wal);
            mem_disk_settle(mem);
        }
        last_idx = wal_last_idx(wal);
        chain = wal_last_chain(wal);
        wal_free(wal);
        if (!usable)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static struct image image;
    if (image.count == 0)
        image_make(&image);
    if (len < 1)
        return 0;
    struct buf file = {0};
    buf_append_span(&file, buf_span(&image.bytes));
    edit(&file, span_of(bytes + 1, len - 1));
    sign(&image, file.ptr, bytes[0]);

    struct mem_disk *mem = mem_disk_new();
    put_file(mem, buf_span(&file));
    struct format_salt salt = {.cluster_id = config.cluster_id, .bucket = config.bucket};
    struct wal_scan scan = {0};
    struct wal_scan_result result;
    enum err err = wal_scan_segment(&mem->disk, 0, &salt, &scan, &result);
    ASSERT(err == ERR_OK || err == ERR_CORRUPT);
    recover(mem, (bytes[0] & REPLICATED) != 0);
    mem_disk_free(mem);
    buf_release(&file);
    return 0;
}
