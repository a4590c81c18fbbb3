/* The index against a naive model, in memory and in files; damaged, contradicting and half-written files. */
#include "bucketd/core/index.h"

#include <check.h>
#include <stdlib.h>

#include "bucketd/core/index_table.h"
#include "tests/unit/bucketd/index_support.h"

#define DIR "segments/0000000003"

static const struct format_salt salt = {.cluster_id = {{1, 2, 3}}, .bucket = 5, .segment = 3, .where = 99};

/* --- a seeded generator --------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static struct uuid random_uuid(uint64_t *state)
{
    struct uuid uuid;
    store_u64(uuid.bytes, next_random(state));
    store_u64(uuid.bytes + 8, next_random(state));
    return uuid;
}

/* --- the model: arrays ----------------------------------------------------------------------------- */

#define MODEL_PARTITIONS 40

struct model_stream {
    uint8_t name[64];
    uint32_t len, partition;
    struct uuid key;
    uint64_t first_version;
    uint32_t *positions, count, cap;
};

struct model_event {
    struct uuid id;
    uint32_t stream, position;
};

struct model {
    struct model_stream *streams;
    uint32_t stream_count;
    struct {
        uint64_t first_seq;
        uint32_t *positions, count, cap;
    } partitions[MODEL_PARTITIONS];
    struct model_event *events;
    uint32_t event_count, event_cap;
    uint32_t next_position;
};

/* Names of every length from 0 to 64 and any bytes; pairs share a name in two partitions. */
static void model_init(struct model *model, uint32_t streams, uint64_t *seed)
{
    *model = (struct model){.stream_count = streams, .next_position = 512};
    model->streams = calloc(streams + 1, sizeof *model->streams);
    for (uint32_t i = 0; i < streams; i++) {
        struct model_stream *stream = &model->streams[i];
        stream->partition = (uint32_t)next_random(seed) % (MODEL_PARTITIONS / 2) * 2;
        stream->key = random_uuid(seed);
        stream->first_version = next_random(seed) % 3 == 0 ? 0 : next_random(seed) >> 8;
        if (i % 2 == 1) {
            *stream = model->streams[i - 1];
            stream->partition++;
            stream->key = random_uuid(seed);
            continue;
        }
        stream->len = i < 2 ? 0 : 8 + (uint32_t)next_random(seed) % 57;
        for (uint32_t j = 0; j < stream->len; j++)
            stream->name[j] = (uint8_t)next_random(seed);
        if (stream->len > 0)
            memcpy(stream->name, &i, sizeof i);
    }
    for (uint32_t i = 0; i < MODEL_PARTITIONS; i++)
        model->partitions[i].first_seq = next_random(seed) >> 4;
}

static void model_release(struct model *model)
{
    for (uint32_t i = 0; i < model->stream_count; i++)
        free(model->streams[i].positions);
    for (uint32_t i = 0; i < MODEL_PARTITIONS; i++)
        free(model->partitions[i].positions);
    free(model->streams);
    free(model->events);
}

static void push(uint32_t **list, uint32_t *count, uint32_t *cap, uint32_t value)
{
    if (*count == *cap) {
        *cap = *cap * 2 + 1;
        *list = realloc(*list, *cap * sizeof **list);
    }
    (*list)[(*count)++] = value;
}

static void model_add(struct model *model, struct index *index, uint32_t stream_number, struct uuid id)
{
    struct model_stream *stream = &model->streams[stream_number];
    model->next_position += 9 + stream->len;
    const struct index_event event = {
        .event_id = id,
        .partition = stream->partition,
        .sequence = model->partitions[stream->partition].first_seq + model->partitions[stream->partition].count,
        .version = stream->first_version + stream->count,
        .partition_key = stream->key,
        .stream = span_of(stream->name, stream->len),
        .position = model->next_position,
    };
    index_add(index, &event);
    push(&stream->positions, &stream->count, &stream->cap, event.position);
    push(&model->partitions[stream->partition].positions, &model->partitions[stream->partition].count,
         &model->partitions[stream->partition].cap, event.position);
    if (model->event_count == model->event_cap) {
        model->event_cap = model->event_cap * 2 + 1;
        model->events = realloc(model->events, model->event_cap * sizeof *model->events);
    }
    model->events[model->event_count++] = (struct model_event){id, stream_number, event.position};
}

static void model_pop(struct model *model, struct index *index)
{
    const struct model_event *event = &model->events[--model->event_count];
    model->streams[event->stream].count--;
    model->partitions[model->streams[event->stream].partition].count--;
    index_pop(index);
}

/* Every lookup is right; where `damaged`, ERR_CORRUPT is right too. */
static void check_result(enum err got, bool exists, bool damaged)
{
    if (damaged && got == ERR_CORRUPT)
        return;
    ck_assert_int_eq(got, exists ? ERR_OK : ERR_NOTFOUND);
}

static void check_event(struct index *index, const struct model_event *event, bool damaged)
{
    enum err err = ERR_OK;
    uint32_t position = 0;
    for (uint32_t skip = 0; err == ERR_OK && position != event->position; skip++)
        err = index_find_event(index, &event->id, skip, &position);
    check_result(err, true, damaged);
}

static void check_stream(struct index *index, const struct model_stream *stream, bool damaged)
{
    struct index_stream found;
    enum err err = index_find_stream(index, stream->partition, span_of(stream->name, stream->len), &found);
    check_result(err, stream->count > 0, damaged);
    if (err != ERR_OK)
        return;
    ck_assert(uuid_equal(&found.partition_key, &stream->key));
    ck_assert_uint_eq(found.first_version, stream->first_version);
    ck_assert_uint_eq(found.count, stream->count);
    for (uint32_t i = 0; i < found.count; i++) {
        uint32_t position;
        err = index_stream_position(index, &found, i, &position);
        check_result(err, true, damaged);
        if (err == ERR_OK)
            ck_assert_uint_eq(position, stream->positions[i]);
    }
}

static void check_partition(struct index *index, const struct model *model, uint32_t partition, bool damaged)
{
    struct index_partition found;
    enum err err = index_find_partition(index, partition, &found);
    check_result(err, model->partitions[partition].count > 0, damaged);
    if (err != ERR_OK)
        return;
    ck_assert_uint_eq(found.first_seq, model->partitions[partition].first_seq);
    ck_assert_uint_eq(found.count, model->partitions[partition].count);
    for (uint32_t i = 0; i < found.count; i++) {
        uint32_t position;
        err = index_partition_position(index, &found, i, &position);
        check_result(err, true, damaged);
        if (err == ERR_OK)
            ck_assert_uint_eq(position, model->partitions[partition].positions[i]);
    }
}

static void check_absent(struct index *index, uint32_t tries, uint64_t *seed, bool damaged)
{
    for (uint32_t i = 0; i < tries; i++) {
        struct uuid id = random_uuid(seed);
        uint32_t position;
        struct index_stream stream;
        /* A chance of 1 in 100 million that a candidate of a file is another's: none with these seeds. */
        check_result(index_find_event(index, &id, 0, &position), false, damaged);
        check_result(index_find_stream(index, i % MODEL_PARTITIONS, span_of(id.bytes, 16), &stream), false, damaged);
    }
    struct index_partition partition;
    check_result(index_find_partition(index, MODEL_PARTITIONS, &partition), false, damaged);
    check_result(index_find_partition(index, UINT32_MAX, &partition), false, damaged);
}

static void check_against_model(struct index *index, const struct model *model, bool damaged)
{
    uint64_t seed = 77;
    ck_assert_uint_eq(index_event_count(index), model->event_count);
    for (uint32_t i = 0; i < model->event_count; i++)
        check_event(index, &model->events[i], damaged);
    for (uint32_t i = 0; i < model->stream_count; i++)
        check_stream(index, &model->streams[i], damaged);
    for (uint32_t i = 0; i < MODEL_PARTITIONS; i++)
        check_partition(index, model, i, damaged);
    check_absent(index, damaged ? 5 : 1000, &seed, damaged);
}

/* --- both forms ------------------------------------------------------------------------------------- */

static void fill(struct model *model, struct index *index, uint32_t events, uint64_t *seed)
{
    for (uint32_t i = 0; i < events; i++)
        model_add(model, index, (uint32_t)next_random(seed) % model->stream_count, random_uuid(seed));
}

static void write_and_compare(struct tiny_disk *disk, struct index *index, const struct model *model)
{
    struct index *mapped;
    ck_assert_int_eq(index_write(index, &disk->disk, DIR, &salt), ERR_OK);
    ck_assert(!disk->dir_dirty && !disk->renamed_unsynced && disk->open == 0);
    ck_assert_int_eq(index_open(&disk->disk, DIR, &salt, &mapped), ERR_OK);
    ck_assert(index_is_mapped(mapped) && !index_is_mapped(index));
    check_against_model(mapped, model, false);
    ck_assert_int_eq(index_check_all(mapped), ERR_OK);
    size_t bytes = 0;
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++)
        bytes += tiny_index_file(disk, DIR, kind)->len;
    ck_assert_uint_eq(index_file_bytes(mapped), bytes);
    index_free(mapped, &disk->disk);
}

static void run_model(uint32_t streams, uint32_t events, uint64_t seed)
{
    struct model model;
    struct tiny_disk disk;
    struct index *index = index_new(next_random(&seed));
    model_init(&model, streams, &seed);
    tiny_init(&disk);
    fill(&model, index, events, &seed);
    check_against_model(index, &model, false);
    ck_assert_int_eq(index_check_all(index), ERR_OK);
    write_and_compare(&disk, index, &model);
    index_free(index, NULL);
    model_release(&model);
    tiny_release(&disk);
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
    struct tiny_disk disk;
    struct index *index = index_new(9);
    model_init(&model, 300, &seed);
    tiny_init(&disk);
    for (uint32_t round = 0; round < 60; round++) {
        fill(&model, index, (uint32_t)next_random(&seed) % 3000, &seed);
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
    write_and_compare(&disk, index, &model);
    index_free(index, NULL);
    model_release(&model);
    tiny_release(&disk);
}
END_TEST

static void expect_candidates(struct index *index, const struct uuid *id, uint32_t count, uint64_t position_sum)
{
    uint32_t position;
    for (uint32_t skip = 0; skip < count; skip++) {
        ck_assert_int_eq(index_find_event(index, id, skip, &position), ERR_OK);
        position_sum -= position;
    }
    ck_assert_uint_eq(position_sum, 0);
    ck_assert_int_eq(index_find_event(index, id, count, &position), ERR_NOTFOUND);
}

START_TEST(same_id_gives_every_candidate)
{
    uint64_t seed = 6, sum = 0;
    struct model model;
    struct tiny_disk disk;
    struct index *index = index_new(10), *mapped;
    model_init(&model, 5, &seed);
    tiny_init(&disk);
    struct uuid id = random_uuid(&seed);
    fill(&model, index, 500, &seed);
    for (uint32_t i = 0; i < 5; i++) {
        model_add(&model, index, i, id);
        sum += model.next_position;
        fill(&model, index, 500, &seed);
    }
    expect_candidates(index, &id, 5, sum);
    ck_assert_int_eq(index_write(index, &disk.disk, DIR, &salt), ERR_OK);
    ck_assert_int_eq(index_open(&disk.disk, DIR, &salt, &mapped), ERR_OK);
    expect_candidates(mapped, &id, 5, sum);
    index_free(mapped, &disk.disk);
    for (uint32_t i = 0; i < 500; i++)
        model_pop(&model, index);
    sum -= model.events[model.event_count - 1].position;
    model_pop(&model, index);
    expect_candidates(index, &id, 4, sum);
    index_free(index, NULL);
    model_release(&model);
    tiny_release(&disk);
}
END_TEST

START_TEST(memory_per_event)
{
    uint64_t seed = 11;
    struct model model;
    struct tiny_disk disk;
    struct index *index = index_new(1), *mapped;
    model_init(&model, 1000, &seed);
    tiny_init(&disk);
    fill(&model, index, 200000, &seed);
    ck_assert_uint_lt(index_memory(index), 200000u * 70);
    ck_assert_int_eq(index_write(index, &disk.disk, DIR, &salt), ERR_OK);
    ck_assert_int_eq(index_open(&disk.disk, DIR, &salt, &mapped), ERR_OK);
    ck_assert_uint_lt(index_file_bytes(mapped), 200000u * 20);
    ck_assert_uint_lt(index_memory(mapped), 4096);
    index_free(mapped, &disk.disk);
    index_free(index, NULL);
    model_release(&model);
    tiny_release(&disk);
}
END_TEST

/* --- the hash table with colliding keys -------------------------------------------------------------- */

#define TABLE_ITEMS 3000

static bool table_holds(const struct table *table, uint32_t tag, uint32_t number)
{
    for (uint32_t cell = table_home(table, tag); table->cells[cell].item != 0; cell = table_next(table, cell)) {
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
        tags[i] = (next_random(&seed) % 2 == 0 ? 0xffffff00u : 0x40000000u) | (next_random(&seed) % 3 == 0);
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

/* --- damaged files ------------------------------------------------------------------------------------ */

struct written {
    struct model model;
    struct tiny_disk disk;
};

static void write_small(struct written *written, uint32_t streams, uint32_t events, uint64_t seed)
{
    struct index *index = index_new(seed);
    model_init(&written->model, streams, &seed);
    tiny_init(&written->disk);
    fill(&written->model, index, events, &seed);
    ck_assert_int_eq(index_write(index, &written->disk.disk, DIR, &salt), ERR_OK);
    index_free(index, NULL);
}

static void release_written(struct written *written)
{
    model_release(&written->model);
    tiny_release(&written->disk);
}

static void ignore_line(void *ctx, const char *text)
{
    (void)ctx;
    (void)text;
}

/* A changed file is noticed by the open or the check of everything, and never gives a wrong answer. */
static void check_damage(struct written *written, const struct tiny_file *damaged)
{
    struct index *index;
    enum err err = index_open(&written->disk.disk, DIR, &salt, &index);
    if (err == ERR_OK) {
        check_against_model(index, &written->model, true);
        ck_assert_int_eq(index_check_all(index), ERR_CORRUPT);
        index_free(index, &written->disk.disk);
    } else {
        ck_assert_int_eq(err, ERR_CORRUPT);
    }
    ck_assert_int_eq(index_dump(span_of(damaged->bytes, damaged->len), ignore_line, NULL), ERR_CORRUPT);
}

/* _i: the kind of file. */
START_TEST(every_flipped_byte_is_noticed)
{
    struct written written;
    write_small(&written, 9, 30, 21);
    struct tiny_file *file = tiny_index_file(&written.disk, DIR, (enum index_kind)_i);
    for (size_t at = 0; at < file->len; at++) {
        uint8_t flips = (uint8_t)(at % 9 == 8 ? 0xff : 1u << at % 9);
        file->bytes[at] ^= flips;
        check_damage(&written, file);
        file->bytes[at] ^= flips;
    }
    release_written(&written);
}
END_TEST

START_TEST(every_shortened_file_is_noticed)
{
    struct written written;
    write_small(&written, 9, 30, 22);
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct tiny_file *file = tiny_index_file(&written.disk, DIR, kind);
        const size_t whole = file->len;
        for (file->len = 0; file->len < whole; file->len += file->len < 200 || file->len > whole - 200 ? 1 : 97)
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
    struct disk *disk = &written.disk.disk;
    for (uint32_t i = 0; i < 3; i++) {
        struct format_salt wrong = salt;
        wrong.cluster_id.bytes[15] ^= i == 0;
        wrong.bucket += i == 1;
        wrong.segment += i == 2;
        ck_assert_int_eq(index_open(disk, DIR, &wrong, &index), ERR_CORRUPT);
    }
    /* Whole, but of an index with another number of events. */
    struct tiny_file *mine = tiny_index_file(&written.disk, DIR, INDEX_STREAMS);
    struct tiny_file *theirs = tiny_index_file(&other.disk, DIR, INDEX_STREAMS);
    struct tiny_file kept = *mine;
    mine->bytes = theirs->bytes;
    mine->len = theirs->len;
    ck_assert_int_eq(index_open(disk, DIR, &salt, &index), ERR_CORRUPT);
    /* Of another kind. */
    theirs = tiny_index_file(&written.disk, DIR, INDEX_EVENTS);
    mine->bytes = theirs->bytes;
    mine->len = theirs->len;
    ck_assert_int_eq(index_open(disk, DIR, &salt, &index), ERR_CORRUPT);
    *mine = kept;
    ck_assert_int_eq(index_open(disk, DIR, &salt, &index), ERR_OK);
    index_free(index, disk);
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct tiny_file *file = tiny_index_file(&written.disk, DIR, kind);
        file->path[0] = '?';
        ck_assert_int_eq(index_open(disk, DIR, &salt, &index), ERR_NOTFOUND);
        file->path[0] = DIR[0];
    }
    release_written(&written);
    release_written(&other);
}
END_TEST

static struct index_layout layout_of(const struct tiny_file *file, enum index_kind kind)
{
    struct index_header header;
    struct index_layout layout;
    memcpy(&header, file->bytes, sizeof header);
    ck_assert(index_layout(&header, kind, &layout));
    return layout;
}

/* Two streams' names and tags are as the file says, but every tag collides. */
START_TEST(colliding_tags_in_files)
{
    struct written written;
    struct index *index;
    write_small(&written, 8, 8, 25);
    struct disk *disk = &written.disk.disk;
    struct tiny_file *streams = tiny_index_file(&written.disk, DIR, INDEX_STREAMS);
    struct tiny_file *events = tiny_index_file(&written.disk, DIR, INDEX_EVENTS);
    struct index_layout stream_layout = layout_of(streams, INDEX_STREAMS), event_layout = layout_of(events, INDEX_EVENTS);
    ck_assert_uint_eq(stream_layout.fanout_bits, 0);
    ck_assert_uint_eq(event_layout.fanout_bits, 0);
    struct index_header header;
    memcpy(&header, streams->bytes, sizeof header);
    for (uint32_t i = 0; i < written.model.stream_count; i++) {
        const struct model_stream *stream = &written.model.streams[i];
        if (stream->count == 0)
            continue;
        uint64_t hash = index_hash_stream(header.hash_seed, stream->partition, span_of(stream->name, stream->len));
        for (uint32_t j = 0; j < header.keys; j++)
            store_u32(streams->bytes + stream_layout.tags + j * sizeof(uint32_t), index_tag(&stream_layout, hash));
        sign_index_file(streams->bytes, streams->len, INDEX_STREAMS);
        ck_assert_int_eq(index_open(disk, DIR, &salt, &index), ERR_OK);
        check_stream(index, stream, false);
        ck_assert_int_eq(index_check_all(index), ERR_CORRUPT);
        index_free(index, disk);
    }
    memcpy(&header, events->bytes, sizeof header);
    const struct uuid *id = &written.model.events[3].id;
    uint32_t tag = index_tag(&event_layout, index_hash_event(header.hash_seed, id));
    uint64_t sum = 0;
    for (uint32_t i = 0; i < header.keys; i++) {
        store_u32(events->bytes + event_layout.entries + i * sizeof(struct eidx_entry), tag);
        sum += written.model.events[i].position;
    }
    sign_index_file(events->bytes, events->len, INDEX_EVENTS);
    ck_assert_int_eq(index_open(disk, DIR, &salt, &index), ERR_OK);
    expect_candidates(index, id, header.keys, sum);
    index_free(index, disk);
    release_written(&written);
}
END_TEST

/* An event's tag, a partition's first sequence and a stream's owner stand nowhere else in the files. */
static bool only_there(enum index_kind kind, uint64_t place_in_entries)
{
    return place_in_entries == 0 || (kind == INDEX_STREAMS && place_in_entries == 12);
}

/* Each file is whole by its CRCs, but something in it can't be: no crash, and the check of everything says so. */
START_TEST(contradicting_files_are_noticed)
{
    struct written written;
    struct index *index;
    write_small(&written, 6, 40, 26);
    struct disk *disk = &written.disk.disk;
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct tiny_file *file = tiny_index_file(&written.disk, DIR, kind);
        struct index_layout layout = layout_of(file, kind);
        struct index_header header;
        memcpy(&header, file->bytes, sizeof header);
        uint8_t *whole = malloc(file->len);
        memcpy(whole, file->bytes, file->len);
        const size_t entry_bytes[] = {sizeof(struct eidx_entry), sizeof(struct pidx_entry), sizeof(struct sidx_entry)};
        uint64_t places[] = {layout.fanout, layout.fanout + 4, layout.entries, layout.entries + entry_bytes[kind] - 4,
                             layout.entries + entry_bytes[kind] - 8, layout.entries + 12, layout.lists,
                             layout.lists + 8};
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            for (uint32_t value = 0; value < 3; value++) {
                if (places[i] < INDEX_PAGE || places[i] + 4 > layout.entries + header.keys * entry_bytes[kind] +
                                                                  header.listed * sizeof(uint32_t))
                    continue;
                const uint32_t values[] = {UINT32_MAX, load_u32(whole + places[i]) + 1, 0x80000001u};
                store_u32(file->bytes + places[i], values[value]);
                sign_index_file(file->bytes, file->len, kind);
                if (index_open(disk, DIR, &salt, &index) == ERR_OK) {
                    if (!only_there(kind, places[i] - layout.entries))
                        ck_assert_int_eq(index_check_all(index), ERR_CORRUPT);
                    index_free(index, disk);
                }
                memcpy(file->bytes, whole, file->len);
            }
        }
        free(whole);
    }
    release_written(&written);
}
END_TEST

/* --- writing --------------------------------------------------------------------------------------------- */

/* Each changing call of the disk fails in turn: the error is returned, the old files stay usable, no rest is left. */
START_TEST(failed_writes_leave_the_old_files)
{
    uint64_t seed = 31;
    struct written written;
    struct index *mapped, *index = index_new(77);
    write_small(&written, 20, 100, 31);
    struct tiny_disk *disk = &written.disk;
    struct model model;
    model_init(&model, 20, &seed);
    fill(&model, index, 100, &seed);
    bool failed = true;
    uint32_t failures = 0;
    for (int call = 1; failed; call++) {
        disk->calls = 0;
        disk->fail_at = call;
        disk->fail_with = call % 2 == 0 ? ERR_FULL : ERR_IO;
        enum err err = index_write(index, &disk->disk, DIR, &salt);
        failed = err != ERR_OK;
        failures += failed;
        if (failed)
            ck_assert_int_eq(err, disk->fail_with);
        for (int i = 0; i < TINY_FILES; i++)
            ck_assert_ptr_null(strstr(disk->files[i].path, ".new"));
        ck_assert_int_eq(index_open(&disk->disk, DIR, &salt, &mapped), ERR_OK);
        index_free(mapped, &disk->disk);
    }
    ck_assert_uint_eq(failures, 3 * 4 + 1);
    disk->fail_at = 0;
    write_and_compare(disk, index, &model);
    model_release(&model);
    index_free(index, NULL);
    release_written(&written);
}
END_TEST

START_TEST(rest_of_a_crash_is_replaced)
{
    struct written written;
    struct file *file;
    struct index *index;
    write_small(&written, 5, 20, 32);
    struct disk *disk = &written.disk.disk;
    ck_assert_int_eq(disk->ops->open(disk, DIR "/stream.sidx.new", OPEN_CREATE, &file), ERR_OK);
    ck_assert_int_eq(disk->ops->pwrite(disk, file, 0, "junk", 4), ERR_OK);
    disk->ops->close(disk, file);
    index = index_new(1);
    ck_assert_int_eq(index_write(index, disk, DIR, &salt), ERR_OK);
    index_free(index, NULL);
    ck_assert_int_eq(index_open(disk, DIR, &salt, &index), ERR_OK);
    ck_assert_uint_eq(index_event_count(index), 0);
    index_free(index, disk);
    release_written(&written);
}
END_TEST

/* --- text ------------------------------------------------------------------------------------------------- */

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
    struct tiny_disk disk;
    tiny_init(&disk);
    struct index *index = index_new(3);
    for (uint32_t i = 0; i < 2; i++) {
        const struct index_event event = {
            .event_id = {{(uint8_t)i}}, .partition = 7, .sequence = 100 + i, .version = 41 + i,
            .stream = span_of("a\"\0z", 4), .position = 600 + i};
        index_add(index, &event);
    }
    ck_assert_int_eq(index_write(index, &disk.disk, DIR, &salt), ERR_OK);
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct lines lines = {0};
        const struct tiny_file *file = tiny_index_file(&disk, DIR, kind);
        ck_assert_int_eq(index_dump(span_of(file->bytes, file->len), count_line, &lines), ERR_OK);
        ck_assert_uint_eq(lines.positions, 2);
        ck_assert_uint_eq(lines.total, kind == INDEX_EVENTS ? 4 : 5);
        ck_assert(lines.named == (kind == INDEX_STREAMS));
    }
    ck_assert_int_eq(index_dump(span_str("too short"), ignore_line, NULL), ERR_CORRUPT);
    index_free(index, NULL);
    tiny_release(&disk);
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
    tcase_add_test(tcase, same_id_gives_every_candidate);
    tcase_add_test(tcase, memory_per_event);
    tcase_add_test(tcase, table_with_colliding_tags);
    tcase_add_loop_test(tcase, every_flipped_byte_is_noticed, 0, INDEX_FILES);
    tcase_add_test(tcase, every_shortened_file_is_noticed);
    tcase_add_test(tcase, foreign_files_are_refused);
    tcase_add_test(tcase, colliding_tags_in_files);
    tcase_add_test(tcase, contradicting_files_are_noticed);
    tcase_add_test(tcase, failed_writes_leave_the_old_files);
    tcase_add_test(tcase, rest_of_a_crash_is_replaced);
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
