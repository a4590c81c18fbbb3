/* The in-memory form of the index: events in log order, hash tables from event id and from
 * (partition, stream id), and a growing list of positions for each stream and partition. */
#include <stdlib.h>

#include "bucketd/core/index_format.h"
#include "bucketd/core/index_internal.h"
#include "bucketd/core/index_table.h"
#include "common/limits.h"

struct event_record {
    struct uuid id;
    uint32_t position;
    uint32_t stream;
};
_Static_assert(sizeof(struct event_record) == 24, "one for each event");

#define INLINE_POSITIONS 2u

/* Followed by the name, padded to STREAM_UNIT. A stream's slot is its place in units, so that
 * finding one costs one cache miss for the table and one for the record with its name. */
struct stream_record {
    uint32_t count;     /* never 0: a zero says that the rest of a chunk is unused */
    uint16_t partition; /* slot */
    uint8_t name_len;
    uint8_t reserved;
    struct uuid partition_key;
    uint64_t first_version;
    union {
        uint32_t few[INLINE_POSITIONS]; /* count <= INLINE_POSITIONS */
        uint32_t *many;                 /* room for the next power of two, at least LIST_ROOM_MIN */
    } positions;
};
_Static_assert(sizeof(struct stream_record) == 40, "one for each stream");

#define STREAM_UNIT 8u

struct partition_record {
    uint64_t first_seq;
    uint32_t *positions;
    uint32_t count;
    uint32_t room;
    uint32_t partition;
};

#define NO_SLOT UINT32_MAX

struct index_memory {
    uint64_t seed;
    struct chunked events;  /* of event_record */
    struct chunked streams; /* of STREAM_UNIT */
    uint32_t stream_count;
    struct table event_table, stream_table;
    struct partition_record *partitions;
    uint32_t partition_count, partition_cap;
    uint32_t *partition_slots; /* by partition: slot + 1; 0 = none */
    uint32_t partition_slot_cap;
    struct lists lists; /* positions of streams and partitions */
};

static uint64_t hash_event(const struct index_memory *memory, const struct uuid *id);
static uint64_t hash_stream(const struct index_memory *memory, uint32_t partition,
                            struct span name);
static uint32_t find_stream(const struct index_memory *memory, uint32_t tag, uint32_t partition,
                            struct span name);
static uint32_t find_partition(const struct index_memory *memory, uint32_t partition);
static uint32_t make_stream(struct index_memory *memory, uint32_t tag, uint32_t partition_slot,
                            const struct index_event *event);
static uint32_t make_partition(struct index_memory *memory, uint32_t partition, uint64_t first_seq);
static void stream_push(struct index_memory *memory, struct stream_record *stream,
                        uint32_t position);
static void stream_pop(struct index_memory *memory, struct stream_record *stream);
static void partition_push(struct index_memory *memory, struct partition_record *partition,
                           uint32_t position);
static struct span stream_name(const struct stream_record *stream);
static uint32_t stream_units(size_t name_len);
static uint32_t list_room(uint32_t count);
static const uint32_t *stream_positions(const struct stream_record *stream);

static struct event_record *event_at(const struct index_memory *memory, uint32_t i)
{
    return chunked_at(&memory->events, i);
}

static struct stream_record *stream_at(const struct index_memory *memory, uint32_t slot)
{
    return chunked_at(&memory->streams, slot);
}

struct index_memory *index_memory_new(uint64_t hash_seed)
{
    struct index_memory *memory = calloc(1, sizeof *memory);
    ASSERT(memory != NULL);
    memory->seed = hash_seed;
    memory->events.item_bytes = sizeof(struct event_record);
    memory->streams.item_bytes = STREAM_UNIT;
    memory->lists.units.item_bytes = LIST_UNIT_BYTES;
    table_init(&memory->event_table, TABLE_BITS_MIN);
    table_init(&memory->stream_table, TABLE_BITS_MIN);
    return memory;
}

void index_memory_free(struct index_memory *memory)
{
    struct index_memory_stream stream = {0};
    while (index_memory_next_stream(memory, &stream)) {
        if (stream.count > LIST_ROOM_SHORT) {
            uint32_t *positions = stream_at(memory, stream.slot)->positions.many;
            list_free(&memory->lists, positions, list_room(stream.count));
        }
    }
    for (uint32_t i = 0; i < memory->partition_count; i++)
        list_free(&memory->lists, memory->partitions[i].positions, memory->partitions[i].room);
    ASSERT(memory->lists.long_bytes == 0);
    lists_release(&memory->lists);
    free(memory->partitions);
    free(memory->partition_slots);
    free(memory->event_table.cells);
    free(memory->stream_table.cells);
    chunked_release(&memory->events);
    chunked_release(&memory->streams);
    free(memory);
}

void index_memory_add(struct index_memory *memory, const struct index_event *event)
{
    ASSERT(event->partition <= PARTITION_COUNT_MAX && event->stream.len <= STREAM_ID_LEN_MAX);
    table_make_room(&memory->event_table);
    table_make_room(&memory->stream_table);
    /* Both tables are larger than the processor's caches: let the two waits overlap. */
    uint32_t event_tag = table_tag(hash_event(memory, &event->event_id));
    uint32_t stream_tag = table_tag(hash_stream(memory, event->partition, event->stream));
    __builtin_prefetch(&memory->stream_table.cells[table_home(&memory->stream_table, stream_tag)]);
    __builtin_prefetch(&memory->event_table.cells[table_home(&memory->event_table, event_tag)], 1);

    uint32_t partition_slot = find_partition(memory, event->partition);
    if (partition_slot == NO_SLOT)
        partition_slot = make_partition(memory, event->partition, event->sequence);
    uint32_t slot = find_stream(memory, stream_tag, event->partition, event->stream);
    if (slot == NO_SLOT)
        slot = make_stream(memory, stream_tag, partition_slot, event);

    struct partition_record *partition = &memory->partitions[partition_slot];
    struct stream_record *stream = stream_at(memory, slot);
    ASSERT(event->sequence == partition->first_seq + partition->count);
    ASSERT(event->version == stream->first_version + stream->count);
    partition_push(memory, partition, event->position);
    stream_push(memory, stream, event->position);

    table_put(&memory->event_table, event_tag, memory->events.count + 1);
    struct event_record *record = chunked_push(&memory->events, 1);
    *record = (struct event_record){event->event_id, event->position, slot};
}

/* Streams and partitions are numbered in the order of their first events: one that becomes empty is
 * the newest. */
void index_memory_pop(struct index_memory *memory)
{
    ASSERT(memory->events.count > 0);
    uint32_t number = memory->events.count - 1;
    const struct event_record *event = event_at(memory, number);
    table_remove(&memory->event_table, table_tag(hash_event(memory, &event->id)), number);

    struct stream_record *stream = stream_at(memory, event->stream);
    struct partition_record *partition = &memory->partitions[stream->partition];
    partition->count--;
    stream_pop(memory, stream);
    if (stream->count == 0) {
        struct span name = stream_name(stream);
        ASSERT(event->stream + stream_units(name.len) <= memory->streams.count);
        table_remove(&memory->stream_table,
                     table_tag(hash_stream(memory, partition->partition, name)), event->stream);
        chunked_truncate(&memory->streams, event->stream);
        memory->stream_count--;
    }
    if (partition->count == 0) {
        ASSERT(partition == &memory->partitions[memory->partition_count - 1]);
        memory->partition_slots[partition->partition] = 0;
        list_free(&memory->lists, partition->positions, partition->room);
        memory->partition_count--;
    }
    chunked_truncate(&memory->events, number);
}

size_t index_memory_bytes(const struct index_memory *memory)
{
    return sizeof *memory + chunked_bytes(&memory->events) + chunked_bytes(&memory->streams) +
           table_bytes(&memory->event_table) + table_bytes(&memory->stream_table) +
           memory->partition_cap * sizeof *memory->partitions +
           memory->partition_slot_cap * sizeof *memory->partition_slots +
           lists_bytes(&memory->lists);
}

/* --- lookups
 * -------------------------------------------------------------------------------------- */

enum err index_memory_find_event(const struct index_memory *memory, const struct uuid *event_id,
                                 uint32_t skip, uint32_t *ret_position)
{
    const struct table *table = &memory->event_table;
    uint32_t tag = table_tag(hash_event(memory, event_id));
    for (uint32_t cell = table_home(table, tag); table->cells[cell].item != 0;
         cell = table_next(table, cell)) {
        if (table->cells[cell].tag != tag)
            continue;
        const struct event_record *event = event_at(memory, table->cells[cell].item - 1);
        if (!uuid_equal(&event->id, event_id) || skip-- > 0)
            continue;
        *ret_position = event->position;
        return ERR_OK;
    }
    return ERR_NOTFOUND;
}

enum err index_memory_find_stream(const struct index_memory *memory, uint32_t partition,
                                  struct span stream, struct index_stream *ret_stream)
{
    uint32_t slot =
        find_stream(memory, table_tag(hash_stream(memory, partition, stream)), partition, stream);
    if (slot == NO_SLOT)
        return ERR_NOTFOUND;
    const struct stream_record *found = stream_at(memory, slot);
    *ret_stream =
        (struct index_stream){found->partition_key, found->first_version, found->count, slot};
    return ERR_OK;
}

enum err index_memory_find_partition(const struct index_memory *memory, uint32_t partition,
                                     struct index_partition *ret_partition)
{
    uint32_t slot = find_partition(memory, partition);
    if (slot == NO_SLOT)
        return ERR_NOTFOUND;
    const struct partition_record *found = &memory->partitions[slot];
    *ret_partition = (struct index_partition){found->first_seq, found->count, slot};
    return ERR_OK;
}

uint32_t index_memory_stream_position(const struct index_memory *memory, uint32_t slot, uint32_t i)
{
    ASSERT(slot < memory->streams.count && i < stream_at(memory, slot)->count);
    return stream_positions(stream_at(memory, slot))[i];
}

uint32_t index_memory_partition_position(const struct index_memory *memory, uint32_t slot,
                                         uint32_t i)
{
    ASSERT(slot < memory->partition_count && i < memory->partitions[slot].count);
    return memory->partitions[slot].positions[i];
}

/* --- for the writer
 * ------------------------------------------------------------------------------- */

uint32_t index_memory_events(const struct index_memory *memory)
{
    return memory->events.count;
}

uint32_t index_memory_streams(const struct index_memory *memory)
{
    return memory->stream_count;
}

uint32_t index_memory_partitions(const struct index_memory *memory)
{
    return memory->partition_count;
}

struct uuid index_memory_event(const struct index_memory *memory, uint32_t i,
                               uint32_t *ret_position)
{
    const struct event_record *event = event_at(memory, i);
    *ret_position = event->position;
    return event->id;
}

bool index_memory_next_stream(const struct index_memory *memory, struct index_memory_stream *stream)
{
    uint32_t slot = stream->count == 0 ? 0 : stream->slot + stream_units(stream->name.len);
    if (slot < memory->streams.count && stream_at(memory, slot)->count == 0)
        slot += CHUNK_ITEMS - slot % CHUNK_ITEMS;
    if (slot >= memory->streams.count)
        return false;
    *stream = index_memory_stream(memory, slot);
    return true;
}

struct index_memory_stream index_memory_stream(const struct index_memory *memory, uint32_t slot)
{
    const struct stream_record *stream = stream_at(memory, slot);
    return (struct index_memory_stream){
        .slot = slot,
        .partition = memory->partitions[stream->partition].partition,
        .partition_key = stream->partition_key,
        .name = stream_name(stream),
        .first_version = stream->first_version,
        .positions = stream_positions(stream),
        .count = stream->count,
    };
}

struct index_memory_partition index_memory_partition(const struct index_memory *memory, uint32_t i)
{
    const struct partition_record *partition = &memory->partitions[i];
    return (struct index_memory_partition){partition->partition, partition->first_seq,
                                           partition->positions, partition->count};
}

/* --- events and streams
 * --------------------------------------------------------------------------- */

static uint64_t hash_event(const struct index_memory *memory, const struct uuid *id)
{
    return index_hash_event(memory->seed, id);
}

static uint64_t hash_stream(const struct index_memory *memory, uint32_t partition, struct span name)
{
    return index_hash_stream(memory->seed, partition, name);
}

static struct span stream_name(const struct stream_record *stream)
{
    return span_of(stream + 1, stream->name_len);
}

static uint32_t stream_units(size_t name_len)
{
    return (uint32_t)(sizeof(struct stream_record) + name_len + STREAM_UNIT - 1) / STREAM_UNIT;
}

static uint32_t find_stream(const struct index_memory *memory, uint32_t tag, uint32_t partition,
                            struct span name)
{
    const struct table *table = &memory->stream_table;
    for (uint32_t cell = table_home(table, tag); table->cells[cell].item != 0;
         cell = table_next(table, cell)) {
        if (table->cells[cell].tag != tag)
            continue;
        uint32_t slot = table->cells[cell].item - 1;
        const struct stream_record *stream = stream_at(memory, slot);
        if (memory->partitions[stream->partition].partition == partition &&
            span_equal(stream_name(stream), name))
            return slot;
    }
    return NO_SLOT;
}

static uint32_t make_stream(struct index_memory *memory, uint32_t tag, uint32_t partition_slot,
                            const struct index_event *event)
{
    uint32_t units = stream_units(event->stream.len);
    struct stream_record *stream = chunked_push(&memory->streams, units);
    *stream = (struct stream_record){
        .partition = (uint16_t)partition_slot,
        .name_len = (uint8_t)event->stream.len,
        .partition_key = event->partition_key,
        .first_version = event->version,
    };
    if (event->stream.len > 0)
        memcpy(stream + 1, event->stream.ptr, event->stream.len);
    uint32_t slot = memory->streams.count - units;
    memory->stream_count++;
    table_put(&memory->stream_table, tag, slot + 1);
    return slot;
}

static const uint32_t *stream_positions(const struct stream_record *stream)
{
    return stream->count <= INLINE_POSITIONS ? stream->positions.few : stream->positions.many;
}

static bool is_power_of_two(uint32_t n)
{
    return (n & (n - 1)) == 0;
}

/* The room of a stream's list follows from its count. */
static uint32_t list_room(uint32_t count)
{
    uint32_t room = LIST_ROOM_MIN;
    while (room < count)
        room *= 2;
    return room;
}

static void stream_push(struct index_memory *memory, struct stream_record *stream,
                        uint32_t position)
{
    uint32_t count = stream->count++;
    if (count < INLINE_POSITIONS) {
        stream->positions.few[count] = position;
        return;
    }
    if (count == INLINE_POSITIONS) {
        uint32_t *list = list_new(&memory->lists, LIST_ROOM_MIN);
        memcpy(list, stream->positions.few, sizeof stream->positions.few);
        stream->positions.many = list;
    } else if (count >= LIST_ROOM_MIN && is_power_of_two(count)) {
        stream->positions.many =
            list_resize(&memory->lists, stream->positions.many, count, 2 * count);
    }
    stream->positions.many[count] = position;
}

static void stream_pop(struct index_memory *memory, struct stream_record *stream)
{
    uint32_t count = --stream->count;
    if (count == INLINE_POSITIONS) {
        uint32_t *list = stream->positions.many;
        memcpy(stream->positions.few, list, sizeof stream->positions.few);
        list_free(&memory->lists, list, LIST_ROOM_MIN);
    } else if (count >= LIST_ROOM_MIN && is_power_of_two(count)) {
        stream->positions.many =
            list_resize(&memory->lists, stream->positions.many, 2 * count, count);
    }
}

/* --- partitions
 * ----------------------------------------------------------------------------------- */

static uint32_t find_partition(const struct index_memory *memory, uint32_t partition)
{
    if (partition >= memory->partition_slot_cap || memory->partition_slots[partition] == 0)
        return NO_SLOT;
    return memory->partition_slots[partition] - 1;
}

/* Partition numbers are small (PARTITION_COUNT_MAX): a plain array finds them. */
static uint32_t make_partition(struct index_memory *memory, uint32_t partition, uint64_t first_seq)
{
    if (partition >= memory->partition_slot_cap) {
        uint32_t cap = memory->partition_slot_cap == 0 ? 64 : memory->partition_slot_cap;
        while (cap <= partition)
            cap *= 2;
        memory->partition_slots =
            realloc(memory->partition_slots, cap * sizeof *memory->partition_slots);
        ASSERT(memory->partition_slots != NULL);
        memset(memory->partition_slots + memory->partition_slot_cap, 0,
               (cap - memory->partition_slot_cap) * sizeof *memory->partition_slots);
        memory->partition_slot_cap = cap;
    }
    if (memory->partition_count == memory->partition_cap) {
        memory->partition_cap = memory->partition_cap == 0 ? 16 : 2 * memory->partition_cap;
        memory->partitions =
            realloc(memory->partitions, memory->partition_cap * sizeof *memory->partitions);
        ASSERT(memory->partitions != NULL);
    }
    uint32_t slot = memory->partition_count++;
    memory->partitions[slot] =
        (struct partition_record){.first_seq = first_seq, .partition = partition};
    memory->partition_slots[partition] = slot + 1;
    return slot;
}

static void partition_push(struct index_memory *memory, struct partition_record *partition,
                           uint32_t position)
{
    if (partition->room == 0) {
        partition->room = LIST_ROOM_MIN;
        partition->positions = list_new(&memory->lists, partition->room);
    } else if (partition->count == partition->room) {
        partition->positions =
            list_resize(&memory->lists, partition->positions, partition->room, 2 * partition->room);
        partition->room *= 2;
    }
    partition->positions[partition->count++] = position;
}
