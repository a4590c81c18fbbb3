/* Index files that are damaged, foreign, contradicting or half-written: noticed, and never
 * believed. */
#include "bucketd/core/index.h"

#include <check.h>
#include <stdlib.h>

#include "tests/unit/bucketd/index_model.h"

/* Operations of one index_write that count (mem_disk.h): unlink, create, write, sync and rename of
 * three files, and the directory's sync. */
#define WRITE_OPERATIONS 16

/* --- damaged files
 * ------------------------------------------------------------------------------------ */

/* A changed file is noticed by the open or the check of everything, and never gives a wrong answer.
 */
static void check_damage(struct written *written, const struct buf *damaged)
{
    struct index *index;
    enum err err = index_open(&written->disk->disk, INDEX_DIR, &index_salt, &index);
    if (err == ERR_OK) {
        check_against_model(index, &written->model, true);
        ck_assert_int_eq(index_check_all(index), ERR_CORRUPT);
        index_free(index, &written->disk->disk);
    } else {
        ck_assert_int_eq(err, ERR_CORRUPT);
    }
    ck_assert_int_eq(index_dump(buf_span(damaged), ignore_line, NULL), ERR_CORRUPT);
}

/* _i: the kind of file. */
START_TEST(every_flipped_byte_is_noticed)
{
    struct written written;
    write_small(&written, 9, 30, 21);
    struct buf *file = index_file_bytes_in(written.disk, INDEX_DIR, (enum index_kind)_i);
    for (size_t at = 0; at < file->len; at++) {
        uint8_t flips = (uint8_t)(at % 9 == 8 ? 0xff : 1u << at % 9);
        file->ptr[at] ^= flips;
        check_damage(&written, file);
        file->ptr[at] ^= flips;
    }
    release_written(&written);
}
END_TEST

START_TEST(every_shortened_file_is_noticed)
{
    struct written written;
    write_small(&written, 9, 30, 22);
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct buf *file = index_file_bytes_in(written.disk, INDEX_DIR, kind);
        const size_t whole = file->len;
        for (file->len = 0; file->len < whole;
             file->len += file->len < 200 || file->len > whole - 200 ? 1 : 97)
            check_damage(&written, file);
        file->len = whole;
    }
    release_written(&written);
}
END_TEST

START_TEST(foreign_files_are_refused)
{
    struct written written, other;
    struct index *index;
    write_small(&written, 9, 30, 23);
    write_small(&other, 9, 31, 24);
    struct disk *disk = &written.disk->disk;
    for (uint32_t i = 0; i < 3; i++) {
        struct format_salt wrong = index_salt;
        wrong.cluster_id.bytes[15] ^= i == 0;
        wrong.bucket += i == 1;
        wrong.segment += i == 2;
        ck_assert_int_eq(index_open(disk, INDEX_DIR, &wrong, &index), ERR_CORRUPT);
    }
    /* Whole, but of an index with another number of events. */
    struct buf *mine = index_file_bytes_in(written.disk, INDEX_DIR, INDEX_STREAMS);
    struct buf *theirs = index_file_bytes_in(other.disk, INDEX_DIR, INDEX_STREAMS);
    struct buf kept = *mine;
    mine->ptr = theirs->ptr;
    mine->len = theirs->len;
    ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_CORRUPT);
    /* Of another kind. */
    theirs = index_file_bytes_in(written.disk, INDEX_DIR, INDEX_EVENTS);
    mine->ptr = theirs->ptr;
    mine->len = theirs->len;
    ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_CORRUPT);
    *mine = kept;
    ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_OK);
    index_free(index, disk);
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", INDEX_DIR, index_file_names[kind]);
        ck_assert_int_eq(disk->ops->rename(disk, path, INDEX_DIR "/aside"), ERR_OK);
        ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_NOTFOUND);
        ck_assert_int_eq(disk->ops->rename(disk, INDEX_DIR "/aside", path), ERR_OK);
    }
    release_written(&written);
    release_written(&other);
}
END_TEST

static struct index_layout layout_of(const struct buf *file, enum index_kind kind)
{
    struct index_header header;
    struct index_layout layout;
    memcpy(&header, file->ptr, sizeof header);
    ck_assert(index_layout(&header, kind, &layout));
    return layout;
}

/* Gives all entries of this hash's bucket the hash's tag, `stride` bytes from tag to tag. */
static void collide(struct buf *file, enum index_kind kind, const struct index_layout *layout,
                    uint64_t tags, size_t stride, uint64_t hash)
{
    const uint8_t *fanout =
        file->ptr + layout->fanout + index_bucket(layout, hash) * sizeof(uint32_t);
    uint32_t from = load_u32(fanout), to = load_u32(fanout + sizeof from);
    for (uint32_t i = from; i < to; i++)
        store_u32(file->ptr + tags + i * stride, index_tag(layout, hash));
    sign_index_file(file, kind);
}

/* Where all tags of its bucket are the same, a stream is told from the others by its partition and
 * name. */
START_TEST(streams_with_colliding_tags)
{
    struct written written;
    struct index *index;
    write_small(&written, 400, 3000, 25);
    struct disk *disk = &written.disk->disk;
    struct buf *file = index_file_bytes_in(written.disk, INDEX_DIR, INDEX_STREAMS);
    struct index_layout layout = layout_of(file, INDEX_STREAMS);
    struct index_header header;
    memcpy(&header, file->ptr, sizeof header);
    uint8_t *whole = malloc(file->len);
    memcpy(whole, file->ptr, file->len);
    for (uint32_t i = 0; i < written.model.stream_count; i++) {
        const struct model_stream *stream = &written.model.streams[i];
        uint64_t hash = index_hash_stream(header.hash_seed, stream->partition,
                                          span_of(stream->name, stream->len));
        collide(file, INDEX_STREAMS, &layout, layout.tags, sizeof(uint32_t), hash);
        ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_OK);
        check_stream(index, stream, false);
        index_free(index, disk);
        memcpy(file->ptr, whole, file->len);
    }
    free(whole);
    release_written(&written);
}
END_TEST

/* Every event of a bucket whose tags are all the same is a candidate. */
START_TEST(events_with_colliding_tags)
{
    struct written written;
    struct index *index;
    write_small(&written, 8, 8, 25);
    struct disk *disk = &written.disk->disk;
    struct buf *file = index_file_bytes_in(written.disk, INDEX_DIR, INDEX_EVENTS);
    struct index_layout layout = layout_of(file, INDEX_EVENTS);
    struct index_header header;
    memcpy(&header, file->ptr, sizeof header);
    ck_assert_uint_eq(layout.fanout_bits, 0);
    const struct uuid *id = &written.model.events[3].id;
    uint64_t hash = index_hash_event(header.hash_seed, id), sum = 0;
    collide(file, INDEX_EVENTS, &layout, layout.entries, sizeof(struct eidx_entry), hash);
    for (uint32_t i = 0; i < header.keys; i++)
        sum += written.model.events[i].position;
    ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_OK);
    expect_candidates(index, id, header.keys, sum);
    index_free(index, disk);
    release_written(&written);
}
END_TEST

/* An event's tag, a partition's first sequence and a stream's owner stand nowhere else in the
 * files. */
static bool only_there(enum index_kind kind, uint64_t place_in_entries)
{
    return place_in_entries == 0 || (kind == INDEX_STREAMS && place_in_entries == 12);
}

/* A partition's events under another number: each file agrees with itself, not with the others. */
START_TEST(partitions_and_streams_must_agree)
{
    struct written written;
    struct index *index;
    write_small(&written, 6, 40, 27);
    struct disk *disk = &written.disk->disk;
    struct buf *file = index_file_bytes_in(written.disk, INDEX_DIR, INDEX_PARTITIONS);
    struct index_header header;
    memcpy(&header, file->ptr, sizeof header);
    uint8_t *last = file->ptr + layout_of(file, INDEX_PARTITIONS).entries +
                    (header.keys - 1) * sizeof(struct pidx_entry) +
                    offsetof(struct pidx_entry, partition);
    store_u32(last, load_u32(last) + 1);
    sign_index_file(file, INDEX_PARTITIONS);
    ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_OK);
    ck_assert_int_eq(index_dump(buf_span(file), ignore_line, NULL), ERR_OK);
    ck_assert_int_eq(index_check_all(index), ERR_CORRUPT);
    index_free(index, disk);
    release_written(&written);
}
END_TEST

/* Each file is whole by its CRCs, but something in it can't be: no crash, and the check of
 * everything says so. */
START_TEST(contradicting_files_are_noticed)
{
    struct written written;
    struct index *index;
    write_small(&written, 6, 40, 26);
    struct disk *disk = &written.disk->disk;
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct buf *file = index_file_bytes_in(written.disk, INDEX_DIR, kind);
        struct index_layout layout = layout_of(file, kind);
        struct index_header header;
        memcpy(&header, file->ptr, sizeof header);
        uint8_t *whole = malloc(file->len);
        memcpy(whole, file->ptr, file->len);
        const size_t entry_bytes[] = {sizeof(struct eidx_entry), sizeof(struct pidx_entry),
                                      sizeof(struct sidx_entry)};
        uint64_t places[] = {layout.fanout,
                             layout.fanout + 4,
                             layout.entries,
                             layout.entries + entry_bytes[kind] - 4,
                             layout.entries + entry_bytes[kind] - 8,
                             layout.entries + 12,
                             layout.lists,
                             layout.lists + 8};
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            for (uint32_t value = 0; value < 3; value++) {
                if (places[i] < INDEX_PAGE || places[i] + 4 > layout.entries +
                                                                  header.keys * entry_bytes[kind] +
                                                                  header.listed * sizeof(uint32_t))
                    continue;
                const uint32_t values[] = {UINT32_MAX, load_u32(whole + places[i]) + 1,
                                           0x80000001u};
                store_u32(file->ptr + places[i], values[value]);
                sign_index_file(file, kind);
                if (index_open(disk, INDEX_DIR, &index_salt, &index) == ERR_OK) {
                    if (!only_there(kind, places[i] - layout.entries))
                        ck_assert_int_eq(index_check_all(index), ERR_CORRUPT);
                    index_free(index, disk);
                }
                memcpy(file->ptr, whole, file->len);
            }
        }
        free(whole);
    }
    release_written(&written);
}
END_TEST

/* --- writing
 * --------------------------------------------------------------------------------------------- */

static bool exists(struct mem_disk *disk, enum index_kind kind, const char *suffix)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s%s", INDEX_DIR, index_file_names[kind], suffix);
    return mem_disk_bytes(disk, path) != NULL;
}

/* Each operation of the disk fails in turn: the error is returned, the old files stay usable, no
 * rest is left. */
START_TEST(failed_writes_leave_the_old_files)
{
    struct written written;
    struct index *mapped, *index = index_new(77);
    uint64_t seed = 31;
    struct model model;
    write_small(&written, 20, 100, 31);
    struct mem_disk *disk = written.disk;
    model_init(&model, 20, &seed);
    model_fill(&model, index, 100, &seed);
    for (uint64_t operation = 1; operation <= WRITE_OPERATIONS; operation++) {
        disk->ops = 0;
        disk->fail_at = operation;
        disk->fail_with = operation % 2 == 0 ? ERR_FULL : ERR_IO;
        ck_assert_int_eq(index_write(index, &disk->disk, INDEX_DIR, &index_salt), disk->fail_with);
        for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++)
            ck_assert(!exists(disk, kind, ".new"));
        ck_assert_int_eq(index_open(&disk->disk, INDEX_DIR, &index_salt, &mapped), ERR_OK);
        index_free(mapped, &disk->disk);
    }
    disk->fail_at = 0;
    disk->ops = 0;
    write_and_compare(disk, index, &model);
    ck_assert_uint_eq(disk->ops, WRITE_OPERATIONS);
    model_release(&model);
    index_free(index, NULL);
    release_written(&written);
}
END_TEST

/* Power fails at each operation, with any part of what wasn't synced on the disk: what has its name
 * is whole. */
START_TEST(crash_leaves_whole_files_or_none)
{
    uint64_t seed = 33;
    struct model model;
    struct index *mapped, *index = index_new(78);
    uint32_t found = 0, none = 0;
    model_init(&model, 20, &seed);
    model_fill(&model, index, 300, &seed);
    for (uint64_t operation = 1; operation <= WRITE_OPERATIONS; operation++) {
        for (uint64_t crash_seed = 0; crash_seed < 12; crash_seed++) {
            struct mem_disk *disk = disk_new();
            disk->ops = 0;
            disk->crash_at = operation;
            enum err err = index_write(index, &disk->disk, INDEX_DIR, &index_salt);
            ck_assert(err != ERR_OK || operation == WRITE_OPERATIONS);
            struct mem_disk *after = mem_disk_crash(disk, crash_seed);
            err = index_open(&after->disk, INDEX_DIR, &index_salt, &mapped);
            ck_assert(err == ERR_OK || err == ERR_NOTFOUND);
            found += err == ERR_OK;
            none += err == ERR_NOTFOUND;
            if (err == ERR_OK) {
                check_against_model(mapped, &model, false);
                index_free(mapped, &after->disk);
            }
            ck_assert_int_eq(index_write(index, &after->disk, INDEX_DIR, &index_salt), ERR_OK);
            disk_free(disk);
            disk_free(after);
        }
    }
    ck_assert(found >= 5 && none >= 100);
    model_release(&model);
    index_free(index, NULL);
}
END_TEST

START_TEST(rest_of_a_crash_is_replaced)
{
    struct written written;
    struct file *file;
    struct index *index;
    write_small(&written, 5, 20, 32);
    struct disk *disk = &written.disk->disk;
    ck_assert_int_eq(disk->ops->open(disk, INDEX_DIR "/stream.sidx.new", OPEN_CREATE, &file),
                     ERR_OK);
    ck_assert_int_eq(disk->ops->pwrite(disk, file, 0, "junk", 4), ERR_OK);
    disk->ops->close(disk, file);
    index = index_new(1);
    ck_assert_int_eq(index_write(index, disk, INDEX_DIR, &index_salt), ERR_OK);
    index_free(index, NULL);
    ck_assert_int_eq(index_open(disk, INDEX_DIR, &index_salt, &index), ERR_OK);
    ck_assert_uint_eq(index_event_count(index), 0);
    index_free(index, disk);
    release_written(&written);
}
END_TEST

static Suite *index_damage_suite(void)
{
    Suite *suite = suite_create("index_damage");
    TCase *tcase = tcase_create("index_damage");
    tcase_set_timeout(tcase, 100);
    suite_add_tcase(suite, tcase);
    tcase_add_loop_test(tcase, every_flipped_byte_is_noticed, 0, INDEX_FILES);
    tcase_add_test(tcase, every_shortened_file_is_noticed);
    tcase_add_test(tcase, foreign_files_are_refused);
    tcase_add_test(tcase, streams_with_colliding_tags);
    tcase_add_test(tcase, events_with_colliding_tags);
    tcase_add_test(tcase, partitions_and_streams_must_agree);
    tcase_add_test(tcase, contradicting_files_are_noticed);
    tcase_add_test(tcase, failed_writes_leave_the_old_files);
    tcase_add_test(tcase, crash_leaves_whole_files_or_none);
    tcase_add_test(tcase, rest_of_a_crash_is_replaced);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(index_damage_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
