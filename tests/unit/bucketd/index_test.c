/* The index against a naive model, in memory and in files. */
#include "bucketd/core/index.h"

#include <check.h>
#include <stdlib.h>

#include "bucketd/core/index_table.h"
#include "tests/unit/bucketd/index_model.h"

/* --- both forms
 * ------------------------------------------------------------------------------------- */

static void run_model(uint32_t streams, uint32_t events, uint64_t seed)
{
    struct model model;
    struct mem_disk *disk = disk_new();
    struct index *index = index_new(next_random(&seed));
    model_init(&model, streams, &seed);
    model_fill(&model, index, events, &seed);
    check_against_model(index, &model, false);
    ck_assert_int_eq(index_check_all(index), ERR_OK);
    write_and_compare(disk, index, &model);
    index_free(index, NULL);
    model_release(&model);
    disk_free(disk);
}

START_TEST(empty_index)
{
    run_model(1, 0, 1);
}
END_TEST

START_TEST(one_event)
{
    run_model(1, 1, 2);
}
END_TEST

START_TEST(small_indexes)
{
    for (uint32_t events = 2; events < 60; events++)
        run_model(1 + events % 13, events, events);
}
END_TEST

START_TEST(few_long_streams)
{
    run_model(7, 100000, 3);
}
END_TEST

START_TEST(many_short_streams)
{
    run_model(60000, 100000, 4);
}
END_TEST

/* Adds and pops, down to nothing in between, with lookups all the way. */
START_TEST(pop_undoes_add)
{
    uint64_t seed = 5;
    struct model model;
    struct mem_disk *disk = disk_new();
    struct index *index = index_new(9);
    model_init(&model, 300, &seed);
    for (uint32_t round = 0; round < 60; round++) {
        model_fill(&model, index, (uint32_t)next_random(&seed) % 3000, &seed);
        uint32_t pops = (uint32_t)next_random(&seed) % (model.event_count + 1);
        for (uint32_t i = round % 7 == 0 ? model.event_count : pops; i > 0; i--) {
            struct uuid id = model.events[model.event_count - 1].id;
            uint32_t position;
            model_pop(&model, index);
            ck_assert_int_eq(index_find_event(index, &id, 0, &position), ERR_NOTFOUND);
        }
        if (round % 6 == 0)
            check_against_model(index, &model, false);
    }
    write_and_compare(disk, index, &model);
    index_free(index, NULL);
    model_release(&model);
    disk_free(disk);
}
END_TEST

struct tagged {
    uint32_t tag, name;
};

static int compare_tagged(const void *a, const void *b)
{
    const struct tagged *left = a, *right = b;
    return (left->tag > right->tag) - (left->tag < right->tag);
}

/* Among so many names dozens of pairs share all 32 bits that the table keeps: both of a pair are
 * found, and are not each other. */
START_TEST(colliding_names_in_memory)
{
    enum { NAMES = 500000 };
    const uint64_t hash_seed = 13;
    struct tagged *names = calloc(NAMES, sizeof *names);
    struct index *index = index_new(hash_seed);
    uint32_t pairs = 0, sequence = 0;
    for (uint32_t i = 0; i < NAMES; i++) {
        struct span name = span_of(&i, sizeof i);
        names[i] = (struct tagged){table_tag(index_hash_stream(hash_seed, 3, name)), i};
    }
    qsort(names, NAMES, sizeof *names, compare_tagged);
    for (uint32_t i = 0; i + 1 < NAMES; i++) {
        if (names[i].tag != names[i + 1].tag)
            continue;
        struct index_event event = {.event_id.bytes[0] = (uint8_t)i, .partition = 3};
        struct index_stream found;
        for (uint32_t j = i; j <= i + 1; j++) {
            event.stream = span_of(&names[j].name, sizeof names[j].name);
            ck_assert_int_eq(index_find_stream(index, 3, event.stream, &found), ERR_NOTFOUND);
            event.sequence = sequence++;
            event.version = j;
            index_add(index, &event);
            ck_assert_int_eq(index_find_stream(index, 3, event.stream, &found), ERR_OK);
            ck_assert_uint_eq(found.first_version, j);
        }
        pairs++;
        i++;
    }
    ck_assert_uint_gt(pairs, 10);
    index_free(index, NULL);
    free(names);
}
END_TEST

START_TEST(same_id_gives_every_candidate)
{
    uint64_t seed = 6, sum = 0;
    struct model model;
    struct mem_disk *disk = disk_new();
    struct index *index = index_new(10), *mapped;
    model_init(&model, 5, &seed);
    struct uuid id = random_uuid(&seed);
    model_fill(&model, index, 500, &seed);
    for (uint32_t i = 0; i < 5; i++) {
        model_add(&model, index, i, id);
        sum += model.next_position;
        model_fill(&model, index, 500, &seed);
    }
    expect_candidates(index, &id, 5, sum);
    ck_assert_int_eq(index_write(index, &disk->disk, INDEX_DIR, &index_salt), ERR_OK);
    ck_assert_int_eq(index_open(&disk->disk, INDEX_DIR, &index_salt, &mapped), ERR_OK);
    expect_candidates(mapped, &id, 5, sum);
    index_free(mapped, &disk->disk);
    for (uint32_t i = 0; i < 500; i++)
        model_pop(&model, index);
    sum -= model.events[model.event_count - 1].position;
    model_pop(&model, index);
    expect_candidates(index, &id, 4, sum);
    index_free(index, NULL);
    model_release(&model);
    disk_free(disk);
}
END_TEST

START_TEST(memory_per_event)
{
    uint64_t seed = 11;
    struct model model;
    struct mem_disk *disk = disk_new();
    struct index *index = index_new(1), *mapped;
    model_init(&model, 1000, &seed);
    model_fill(&model, index, 200000, &seed);
    ck_assert_uint_lt(index_memory(index), 200000u * 70);
    ck_assert_int_eq(index_write(index, &disk->disk, INDEX_DIR, &index_salt), ERR_OK);
    ck_assert_int_eq(index_open(&disk->disk, INDEX_DIR, &index_salt, &mapped), ERR_OK);
    ck_assert_uint_lt(index_file_bytes(mapped), 200000u * 20);
    ck_assert_uint_lt(index_memory(mapped), 4096);
    index_free(mapped, &disk->disk);
    index_free(index, NULL);
    model_release(&model);
    disk_free(disk);
}
END_TEST

/* --- the hash table with colliding keys
 * -------------------------------------------------------------- */

#define TABLE_ITEMS 3000

static bool table_holds(const struct table *table, uint32_t tag, uint32_t number)
{
    for (uint32_t cell = table_home(table, tag); table->cells[cell].item != 0;
         cell = table_next(table, cell)) {
        if (table->cells[cell].item == number + 1)
            return true;
    }
    return false;
}

START_TEST(table_with_colliding_tags)
{
    uint64_t seed = 12;
    struct table table;
    uint32_t tags[TABLE_ITEMS];
    bool in[TABLE_ITEMS] = {false};
    table_init(&table, TABLE_BITS_MIN);
    /* A few homes, some at the very end: long runs that wrap around. */
    for (uint32_t i = 0; i < TABLE_ITEMS; i++)
        tags[i] = (next_random(&seed) % 2 == 0 ? 0xffffff00u : 0x40000000u) |
                  (next_random(&seed) % 3 == 0);
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)next_random(&seed) % (step < 10000 ? 100 : TABLE_ITEMS);
        if (in[i]) {
            table_remove(&table, tags[i], i);
        } else {
            table_make_room(&table);
            table_put(&table, tags[i], i + 1);
        }
        in[i] = !in[i];
        if (step % 500 == 0) {
            for (uint32_t j = 0; j < TABLE_ITEMS; j++)
                ck_assert(table_holds(&table, tags[j], j) == in[j]);
        }
    }
    free(table.cells);
}
END_TEST

/* --- text
 * -------------------------------------------------------------------------------------------------
 */

struct lines {
    uint32_t total, positions;
    bool named;
};

static void count_line(void *ctx, const char *text)
{
    struct lines *lines = ctx;
    lines->total++;
    lines->positions += strstr(text, "offset=") != NULL;
    lines->named |= strstr(text, "stream \"a\\x22\\x00z\" partition=7 key=") != NULL &&
                    strstr(text, "versions=41..42") != NULL;
}

START_TEST(dump_prints_everything)
{
    struct mem_disk *disk = disk_new();
    struct index *index = index_new(3);
    for (uint32_t i = 0; i < 2; i++) {
        const struct index_event event = {.event_id = {{(uint8_t)i}},
                                          .partition = 7,
                                          .sequence = 100 + i,
                                          .version = 41 + i,
                                          .stream = span_of("a\"\0z", 4),
                                          .position = 600 + i};
        index_add(index, &event);
    }
    ck_assert_int_eq(index_write(index, &disk->disk, INDEX_DIR, &index_salt), ERR_OK);
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct lines lines = {0};
        const struct buf *file = index_file_bytes_in(disk, INDEX_DIR, kind);
        ck_assert_int_eq(index_dump(buf_span(file), count_line, &lines), ERR_OK);
        ck_assert_uint_eq(lines.positions, 2);
        ck_assert_uint_eq(lines.total, kind == INDEX_EVENTS ? 4 : 5);
        ck_assert(lines.named == (kind == INDEX_STREAMS));
    }
    ck_assert_int_eq(index_dump(span_str("too short"), ignore_line, NULL), ERR_CORRUPT);
    index_free(index, NULL);
    disk_free(disk);
}
END_TEST

static Suite *index_suite(void)
{
    Suite *suite = suite_create("index");
    TCase *tcase = tcase_create("index");
    tcase_set_timeout(tcase, 100);
    suite_add_tcase(suite, tcase);
    tcase_add_test(tcase, empty_index);
    tcase_add_test(tcase, one_event);
    tcase_add_test(tcase, small_indexes);
    tcase_add_test(tcase, few_long_streams);
    tcase_add_test(tcase, many_short_streams);
    tcase_add_test(tcase, pop_undoes_add);
    tcase_add_test(tcase, colliding_names_in_memory);
    tcase_add_test(tcase, same_id_gives_every_candidate);
    tcase_add_test(tcase, memory_per_event);
    tcase_add_test(tcase, table_with_colliding_tags);
    tcase_add_test(tcase, dump_prints_everything);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(index_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
