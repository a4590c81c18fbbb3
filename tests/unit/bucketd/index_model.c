/* A naive model of the index (index_model.h). */
#include "tests/unit/bucketd/index_model.h"

#include <check.h>
#include <stdlib.h>

/* ck_assert writes to a pipe whenever it is passed: too slow for millions of checks. */
#define EXPECT(expr)                                                                               \
    do {                                                                                           \
        if (!(expr))                                                                               \
            ck_abort_msg("%s", #expr);                                                             \
    } while (0)

const struct format_salt index_salt = {
    .cluster_id = {{1, 2, 3}}, .bucket = 5, .segment = 3, .where = 99};

/* --- a seeded generator
 * --------------------------------------------------------------------------- */

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct uuid random_uuid(uint64_t *state)
{
    struct uuid uuid;
    store_u64(uuid.bytes, next_random(state));
    store_u64(uuid.bytes + 8, next_random(state));
    return uuid;
}

/* --- the model: arrays
 * ----------------------------------------------------------------------------- */

/* Names of every length from 0 to 64 and any bytes; pairs share a name in two partitions. */
void model_init(struct model *model, uint32_t streams, uint64_t *seed)
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

void model_release(struct model *model)
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

void model_add(struct model *model, struct index *index, uint32_t stream_number, struct uuid id)
{
    struct model_stream *stream = &model->streams[stream_number];
    model->next_position += 9 + stream->len;
    const struct index_event event = {
        .event_id = id,
        .partition = stream->partition,
        .sequence = model->partitions[stream->partition].first_seq +
                    model->partitions[stream->partition].count,
        .version = stream->first_version + stream->count,
        .partition_key = stream->key,
        .stream = span_of(stream->name, stream->len),
        .position = model->next_position,
    };
    index_add(index, &event);
    push(&stream->positions, &stream->count, &stream->cap, event.position);
    push(&model->partitions[stream->partition].positions,
         &model->partitions[stream->partition].count, &model->partitions[stream->partition].cap,
         event.position);
    if (model->event_count == model->event_cap) {
        model->event_cap = model->event_cap * 2 + 1;
        model->events = realloc(model->events, model->event_cap * sizeof *model->events);
    }
    model->events[model->event_count++] = (struct model_event){id, stream_number, event.position};
}

void model_pop(struct model *model, struct index *index)
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
    EXPECT(got == (exists ? ERR_OK : ERR_NOTFOUND));
}

static void check_event(struct index *index, const struct model_event *event, bool damaged)
{
    enum err err = ERR_OK;
    uint32_t position = 0;
    for (uint32_t skip = 0; err == ERR_OK && position != event->position; skip++)
        err = index_find_event(index, &event->id, skip, &position);
    check_result(err, true, damaged);
}

void check_stream(struct index *index, const struct model_stream *stream, bool damaged)
{
    struct index_stream found;
    enum err err =
        index_find_stream(index, stream->partition, span_of(stream->name, stream->len), &found);
    check_result(err, stream->count > 0, damaged);
    if (err != ERR_OK)
        return;
    EXPECT(uuid_equal(&found.partition_key, &stream->key));
    EXPECT(found.first_version == stream->first_version);
    EXPECT(found.count == stream->count);
    for (uint32_t i = 0; i < found.count; i++) {
        uint32_t position;
        err = index_stream_position(index, &found, i, &position);
        check_result(err, true, damaged);
        if (err == ERR_OK)
            EXPECT(position == stream->positions[i]);
    }
}

static void check_partition(struct index *index, const struct model *model, uint32_t partition,
                            bool damaged)
{
    struct index_partition found;
    enum err err = index_find_partition(index, partition, &found);
    check_result(err, model->partitions[partition].count > 0, damaged);
    if (err != ERR_OK)
        return;
    EXPECT(found.first_seq == model->partitions[partition].first_seq);
    EXPECT(found.count == model->partitions[partition].count);
    for (uint32_t i = 0; i < found.count; i++) {
        uint32_t position;
        err = index_partition_position(index, &found, i, &position);
        check_result(err, true, damaged);
        if (err == ERR_OK)
            EXPECT(position == model->partitions[partition].positions[i]);
    }
}

static void check_absent(struct index *index, uint32_t tries, uint64_t *seed, bool damaged)
{
    for (uint32_t i = 0; i < tries; i++) {
        struct uuid id = random_uuid(seed);
        uint32_t position;
        struct index_stream stream;
        /* A chance of 1 in 100 million that a candidate of a file is another's: none with these
         * seeds. */
        check_result(index_find_event(index, &id, 0, &position), false, damaged);
        check_result(index_find_stream(index, i % MODEL_PARTITIONS, span_of(id.bytes, 16), &stream),
                     false, damaged);
    }
    struct index_partition partition;
    check_result(index_find_partition(index, MODEL_PARTITIONS, &partition), false, damaged);
    check_result(index_find_partition(index, UINT32_MAX, &partition), false, damaged);
}

void check_against_model(struct index *index, const struct model *model, bool damaged)
{
    uint64_t seed = 77;
    EXPECT(index_event_count(index) == model->event_count);
    for (uint32_t i = 0; i < model->event_count; i++)
        check_event(index, &model->events[i], damaged);
    for (uint32_t i = 0; i < model->stream_count; i++)
        check_stream(index, &model->streams[i], damaged);
    for (uint32_t i = 0; i < MODEL_PARTITIONS; i++)
        check_partition(index, model, i, damaged);
    check_absent(index, damaged ? 5 : 1000, &seed, damaged);
}

struct mem_disk *disk_new(void)
{
    struct mem_disk *mem = mem_disk_new();
    EXPECT(mem->disk.ops->mkdir(&mem->disk, "segments") == ERR_OK);
    EXPECT(mem->disk.ops->sync_dir(&mem->disk, ".") == ERR_OK);
    EXPECT(mem->disk.ops->mkdir(&mem->disk, INDEX_DIR) == ERR_OK);
    EXPECT(mem->disk.ops->sync_dir(&mem->disk, "segments") == ERR_OK);
    return mem;
}

void disk_free(struct mem_disk *mem)
{
    EXPECT(mem->files_open == 0);
    mem_disk_free(mem);
}

void model_fill(struct model *model, struct index *index, uint32_t events, uint64_t *seed)
{
    for (uint32_t i = 0; i < events; i++)
        model_add(model, index, (uint32_t)next_random(seed) % model->stream_count,
                  random_uuid(seed));
}

void expect_candidates(struct index *index, const struct uuid *id, uint32_t count,
                       uint64_t position_sum)
{
    uint32_t position;
    for (uint32_t skip = 0; skip < count; skip++) {
        ck_assert_int_eq(index_find_event(index, id, skip, &position), ERR_OK);
        position_sum -= position;
    }
    ck_assert_uint_eq(position_sum, 0);
    ck_assert_int_eq(index_find_event(index, id, count, &position), ERR_NOTFOUND);
}

void write_and_compare(struct mem_disk *disk, struct index *index, const struct model *model)
{
    struct index *mapped;
    ck_assert_int_eq(index_write(index, &disk->disk, INDEX_DIR, &index_salt), ERR_OK);
    ck_assert_int_eq(index_open(&disk->disk, INDEX_DIR, &index_salt, &mapped), ERR_OK);
    ck_assert(index_is_mapped(mapped) && !index_is_mapped(index));
    check_against_model(mapped, model, false);
    ck_assert_int_eq(index_check_all(mapped), ERR_OK);
    size_t bytes = 0;
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++)
        bytes += index_file_bytes_in(disk, INDEX_DIR, kind)->len;
    ck_assert_uint_eq(index_file_bytes(mapped), bytes);
    index_free(mapped, &disk->disk);
}

void write_small(struct written *written, uint32_t streams, uint32_t events, uint64_t seed)
{
    struct index *index = index_new(seed);
    model_init(&written->model, streams, &seed);
    written->disk = disk_new();
    model_fill(&written->model, index, events, &seed);
    ck_assert_int_eq(index_write(index, &written->disk->disk, INDEX_DIR, &index_salt), ERR_OK);
    index_free(index, NULL);
}

void release_written(struct written *written)
{
    model_release(&written->model);
    disk_free(written->disk);
}

void ignore_line(void *ctx, const char *text)
{
    (void)ctx;
    (void)text;
}
