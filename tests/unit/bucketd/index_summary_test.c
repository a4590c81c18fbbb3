/* Summaries of 32 segments: no key of theirs is ever denied, few others are let through, damage is
 * noticed and never denies a key. */
#include "bucketd/core/index.h"

#include <check.h>
#include <stdio.h>

#include "bucketd/core/index_format.h"
#include "tests/unit/bucketd/mem_disk.h"

#define EVENTS_PER_SEGMENT 40u
#define STREAMS            500u
#define SUMMARY_PATH       "summaries/0000000064.sum"
#define FIRST_SEGMENT      64u

static const struct format_salt salt = {.cluster_id = {{7}}, .bucket = 3, .segment = FIRST_SEGMENT};

static struct uuid event_id(uint32_t number)
{
    struct uuid id = {{0}};
    store_u32(id.bytes, number * 2654435761u);
    store_u32(id.bytes + 8, number);
    return id;
}

static struct span stream_name(uint32_t number, char text[static 32])
{
    return span_of(text, (size_t)snprintf(text, 32, "stream-%u", number));
}

/* Segment s holds the events s * EVENTS_PER_SEGMENT ...; event n is of stream n % STREAMS. */
static void write_segment(struct mem_disk *mem, uint32_t s)
{
    char dir[32], text[32];
    struct format_salt own = salt;
    own.segment += s;
    struct index *index = index_new(s + 1);
    for (uint32_t i = 0; i < EVENTS_PER_SEGMENT; i++) {
        uint32_t number = s * EVENTS_PER_SEGMENT + i;
        index_add(index, &(struct index_event){.event_id = event_id(number),
                                               .partition = 3,
                                               .sequence = number,
                                               .version = number / STREAMS,
                                               .stream = stream_name(number % STREAMS, text),
                                               .position = i + 1});
    }
    snprintf(dir, sizeof dir, "segments/%010u", FIRST_SEGMENT + s);
    ck_assert_int_eq(mem->disk.ops->mkdir(&mem->disk, dir), ERR_OK);
    ck_assert_int_eq(index_write(index, &mem->disk, dir, &own), ERR_OK);
    index_free(index, &mem->disk);
}

static struct mem_disk *write_all(void)
{
    struct mem_disk *mem = mem_disk_new();
    ck_assert_int_eq(mem->disk.ops->mkdir(&mem->disk, "segments"), ERR_OK);
    for (uint32_t s = 0; s < INDEX_SUMMARY_SEGMENTS; s++)
        write_segment(mem, s);
    return mem;
}

static void check_all_present(struct index_summary *summary)
{
    char text[32];
    for (uint32_t i = 0; i < INDEX_SUMMARY_SEGMENTS * EVENTS_PER_SEGMENT; i++) {
        struct uuid id = event_id(i);
        ck_assert(index_summary_has_event(summary, &id));
        ck_assert(index_summary_has_stream(summary, 3, stream_name(i % STREAMS, text)));
    }
}

START_TEST(knows_every_key_and_few_others)
{
    struct mem_disk *mem = write_all();
    struct index_summary *summary;
    ck_assert_int_eq(index_summary_write(&mem->disk, &salt), ERR_OK);
    ck_assert_int_eq(index_summary_open(&mem->disk, &salt, &summary), ERR_OK);
    check_all_present(summary);
    uint32_t events = 0, streams = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        char text[32];
        struct uuid id = event_id(1000000 + i);
        events += index_summary_has_event(summary, &id);
        streams += index_summary_has_stream(summary, 3, stream_name(STREAMS + i, text));
    }
    ck_assert_uint_lt(events, 500);
    ck_assert_uint_lt(streams, 500);
    ck_assert(!index_summary_damaged(summary));
    index_summary_free(summary, &mem->disk);
    mem_disk_free(mem);
}
END_TEST

START_TEST(every_flipped_byte_denies_nothing)
{
    struct mem_disk *mem = write_all();
    ck_assert_int_eq(index_summary_write(&mem->disk, &salt), ERR_OK);
    struct buf *file = mem_disk_bytes(mem, SUMMARY_PATH);
    ck_assert_ptr_nonnull(file);
    for (size_t at = 0; at < file->len; at += at < 200 ? 1 : 29) {
        file->ptr[at] ^= (uint8_t)(1u << at % 8);
        struct index_summary *summary = NULL;
        enum err err = index_summary_open(&mem->disk, &salt, &summary);
        if (err == ERR_OK) {
            check_all_present(summary);
            ck_assert(index_summary_damaged(summary));
            index_summary_free(summary, &mem->disk);
        } else {
            ck_assert_int_eq(err, ERR_CORRUPT);
        }
        file->ptr[at] ^= (uint8_t)(1u << at % 8);
    }
    mem_disk_free(mem);
}
END_TEST

START_TEST(needs_all_its_segments)
{
    struct mem_disk *mem = write_all();
    struct index_summary *summary;
    ck_assert_int_eq(index_summary_open(&mem->disk, &salt, &summary), ERR_NOTFOUND);
    ck_assert_int_eq(mem->disk.ops->unlink(&mem->disk, "segments/0000000095/stream.sidx"), ERR_OK);
    ck_assert_int_eq(index_summary_write(&mem->disk, &salt), ERR_NOTFOUND);
    struct format_salt other = salt;
    other.bucket = 4;
    ck_assert_int_eq(index_summary_write(&mem->disk, &other), ERR_CORRUPT);
    ck_assert_int_eq(index_summary_open(&mem->disk, &salt, &summary), ERR_NOTFOUND);
    mem_disk_free(mem);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("index_summary");
    TCase *test = tcase_create("index_summary");
    tcase_set_timeout(test, 60);
    tcase_add_test(test, knows_every_key_and_few_others);
    tcase_add_test(test, every_flipped_byte_denies_nothing);
    tcase_add_test(test, needs_all_its_segments);
    suite_add_tcase(suite, test);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
