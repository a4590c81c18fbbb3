/* What the in-memory index is built from: a hash table of numbers, an array that grows without
 * moving, and memory for very many short lists. Only index_memory.c includes this. */
#pragma once

#include <stdlib.h>

#include "common/assert.h"
#include "common/bytes.h"

/* --- hash table: open addressing, linear probing ------------------------------------------------
 * A cell holds 32 bits of the key's hash and the number of the item. The home cell is the top of
 * the tag, so that doubling reads the old cells and writes the new ones both in ascending order,
 * and needs no key. The rest of the tag keeps nearly all misses away from the items. */
#define TABLE_BITS_MIN 6u

struct table_cell {
    uint32_t tag;
    uint32_t item; /* number + 1; 0 = empty */
};

struct table {
    struct table_cell *cells;
    uint32_t bits;
    uint32_t used;
};

static inline uint32_t table_tag(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

static inline uint32_t table_home(const struct table *table, uint32_t tag)
{
    return tag >> (32 - table->bits);
}

static inline uint32_t table_next(const struct table *table, uint32_t cell)
{
    return (cell + 1) & ((1u << table->bits) - 1);
}

static inline size_t table_bytes(const struct table *table)
{
    return sizeof *table->cells << table->bits;
}

static inline void table_init(struct table *table, uint32_t bits)
{
    ASSERT(bits >= 1 && bits <= 31);
    *table = (struct table){.bits = bits};
    table->cells = calloc((size_t)1 << bits, sizeof *table->cells);
    ASSERT(table->cells != NULL);
}

static inline void table_put(struct table *table, uint32_t tag, uint32_t item)
{
    uint32_t cell = table_home(table, tag);
    while (table->cells[cell].item != 0)
        cell = table_next(table, cell);
    table->cells[cell] = (struct table_cell){tag, item};
    table->used++;
}

/* Doubles where one more would make it fuller than 4/5. */
static inline void table_make_room(struct table *table)
{
    if (table->used + 1 <= ((uint64_t)4 << table->bits) / 5)
        return;
    struct table old = *table;
    table_init(table, old.bits + 1);
    for (uint64_t i = 0; i < (uint64_t)1 << old.bits; i++) {
        if (old.cells[i].item != 0)
            table_put(table, old.cells[i].tag, old.cells[i].item);
    }
    free(old.cells);
}

/* Takes item `number`, which is there, out, and moves later cells of its run up, so that no probe
 * ends early. */
static inline void table_remove(struct table *table, uint32_t tag, uint32_t number)
{
    const uint32_t mask = (1u << table->bits) - 1;
    uint32_t hole = table_home(table, tag);
    while (table->cells[hole].item != number + 1) {
        ASSERT(table->cells[hole].item != 0);
        hole = table_next(table, hole);
    }
    for (uint32_t cell = table_next(table, hole); table->cells[cell].item != 0;
         cell = table_next(table, cell)) {
        uint32_t distance = (cell - table_home(table, table->cells[cell].tag)) & mask;
        if (distance < ((cell - hole) & mask))
            continue;
        table->cells[hole] = table->cells[cell];
        hole = cell;
    }
    table->cells[hole] = (struct table_cell){0, 0};
    table->used--;
}

/* --- chunked array: items never move, growing costs no copy --------------------------------------
 */
#define CHUNK_ITEMS 8192u

struct chunked {
    uint8_t **chunks;
    uint32_t chunk_count;
    uint32_t count; /* items */
    uint32_t item_bytes;
};

static inline void *chunked_at(const struct chunked *array, uint32_t i)
{
    return array->chunks[i / CHUNK_ITEMS] + (size_t)(i % CHUNK_ITEMS) * array->item_bytes;
}

static inline size_t chunked_bytes(const struct chunked *array)
{
    return array->chunk_count * ((size_t)CHUNK_ITEMS * array->item_bytes + sizeof *array->chunks);
}

/* `run` more items, uninitialised and beside each other: where they would cross into a new chunk,
 * the last items of the old one are left out, as zeros. Returns the first, whose number is
 * array->count - run. */
static inline void *chunked_push(struct chunked *array, uint32_t run)
{
    uint32_t used = array->count % CHUNK_ITEMS;
    if (used + run > CHUNK_ITEMS) {
        memset(chunked_at(array, array->count), 0,
               (size_t)(CHUNK_ITEMS - used) * array->item_bytes);
        array->count += CHUNK_ITEMS - used;
    }
    ASSERT(array->count < UINT32_MAX - CHUNK_ITEMS);
    if (array->count == array->chunk_count * (uint64_t)CHUNK_ITEMS) {
        uint8_t **chunks = realloc(array->chunks, (array->chunk_count + 1) * sizeof *chunks);
        ASSERT(chunks != NULL);
        array->chunks = chunks;
        chunks[array->chunk_count] = malloc((size_t)CHUNK_ITEMS * array->item_bytes);
        ASSERT(chunks[array->chunk_count] != NULL);
        array->chunk_count++;
    }
    array->count += run;
    return chunked_at(array, array->count - run);
}

/* Makes the array shorter; chunks stay for the items to come. */
static inline void chunked_truncate(struct chunked *array, uint32_t count)
{
    ASSERT(count <= array->count);
    array->count = count;
}

static inline void chunked_release(struct chunked *array)
{
    for (uint32_t i = 0; i < array->chunk_count; i++)
        free(array->chunks[i]);
    free(array->chunks);
    *array = (struct chunked){.item_bytes = array->item_bytes};
}

/* --- lists of u32 whose room is a power of two
 * ----------------------------------------------------- Short ones lie close together in chunks;
 * one that was outgrown is used again for the next of its size. Long ones are malloc's. */
#define LIST_ROOM_MIN   4u
#define LIST_ROOM_SHORT 1024u
#define LIST_CLASSES    9u
#define LIST_UNIT_BYTES 16u
_Static_assert(LIST_ROOM_MIN << (LIST_CLASSES - 1) == LIST_ROOM_SHORT,
               "a class for each power of two");
_Static_assert(LIST_ROOM_MIN * sizeof(uint32_t) == LIST_UNIT_BYTES,
               "the shortest list is one unit");

struct lists {
    struct chunked units;
    uint32_t *outgrown[LIST_CLASSES]; /* chains; the next one's address stands in the list */
    size_t long_bytes;
};

static inline size_t lists_bytes(const struct lists *lists)
{
    return chunked_bytes(&lists->units) + lists->long_bytes;
}

static inline void lists_release(struct lists *lists)
{
    chunked_release(&lists->units);
}

static inline uint32_t list_class(uint32_t room)
{
    return (uint32_t)__builtin_ctz(room / LIST_ROOM_MIN);
}

static inline uint32_t *list_new(struct lists *lists, uint32_t room)
{
    if (room > LIST_ROOM_SHORT) {
        uint32_t *list = malloc(room * sizeof *list);
        ASSERT(list != NULL);
        lists->long_bytes += room * sizeof *list;
        return list;
    }
    uint32_t **chain = &lists->outgrown[list_class(room)];
    uint32_t *list = *chain;
    if (list == NULL)
        return chunked_push(&lists->units, room / LIST_ROOM_MIN);
    memcpy(chain, list, sizeof *chain);
    return list;
}

static inline void list_free(struct lists *lists, uint32_t *list, uint32_t room)
{
    if (room > LIST_ROOM_SHORT) {
        lists->long_bytes -= room * sizeof *list;
        free(list);
        return;
    }
    uint32_t **chain = &lists->outgrown[list_class(room)];
    memcpy(list, chain, sizeof *chain);
    *chain = list;
}

/* The same list with another room, of which the first min(from, to) numbers are kept. */
static inline uint32_t *list_resize(struct lists *lists, uint32_t *list, uint32_t from, uint32_t to)
{
    if (from > LIST_ROOM_SHORT && to > LIST_ROOM_SHORT) {
        list = realloc(list, to * sizeof *list);
        ASSERT(list != NULL);
        lists->long_bytes += to * sizeof *list;
        lists->long_bytes -= from * sizeof *list;
        return list;
    }
    uint32_t *resized = list_new(lists, to);
    memcpy(resized, list, (from < to ? from : to) * sizeof *list);
    list_free(lists, list, from);
    return resized;
}
