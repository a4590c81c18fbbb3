/* One segment's index: which of the two forms answers (index.h). */
#include "bucketd/core/index.h"

#include <stdlib.h>

#include "bucketd/core/index_internal.h"
#include "common/assert.h"

struct index *index_new(uint64_t hash_seed)
{
    struct index *index = calloc(1, sizeof *index);
    ASSERT(index != NULL);
    index->memory = index_memory_new(hash_seed);
    return index;
}

void index_free(struct index *index, struct disk *disk)
{
    if (index == NULL)
        return;
    if (index->memory != NULL)
        index_memory_free(index->memory);
    if (index->files != NULL)
        index_files_free(index->files, disk);
    free(index);
}

void index_add(struct index *index, const struct index_event *event)
{
    ASSERT(index->memory != NULL);
    index_memory_add(index->memory, event);
}

void index_pop(struct index *index)
{
    ASSERT(index->memory != NULL);
    index_memory_pop(index->memory);
}

uint32_t index_event_count(const struct index *index)
{
    return index->memory != NULL ? index_memory_events(index->memory)
                                 : index_files_events(index->files);
}

size_t index_memory(const struct index *index)
{
    return sizeof *index + (index->memory != NULL ? index_memory_bytes(index->memory)
                                                  : index_files_memory(index->files));
}

bool index_is_mapped(const struct index *index)
{
    return index->files != NULL;
}

size_t index_file_bytes(const struct index *index)
{
    return index->files != NULL ? index_files_bytes(index->files) : 0;
}

enum err index_check_all(struct index *index)
{
    return index->files != NULL ? index_files_check(index->files) : ERR_OK;
}

enum err index_find_event(struct index *index, const struct uuid *event_id, uint32_t skip,
                          uint32_t *ret_position)
{
    if (index->memory != NULL)
        return index_memory_find_event(index->memory, event_id, skip, ret_position);
    return index_files_find_event(index->files, event_id, skip, ret_position);
}

enum err index_find_stream(struct index *index, uint32_t partition, struct span stream,
                           struct index_stream *ret_stream)
{
    if (index->memory != NULL)
        return index_memory_find_stream(index->memory, partition, stream, ret_stream);
    return index_files_find_stream(index->files, partition, stream, ret_stream);
}

enum err index_find_partition(struct index *index, uint32_t partition,
                              struct index_partition *ret_partition)
{
    if (index->memory != NULL)
        return index_memory_find_partition(index->memory, partition, ret_partition);
    return index_files_find_partition(index->files, partition, ret_partition);
}

enum err index_stream_position(struct index *index, const struct index_stream *stream, uint32_t i,
                               uint32_t *ret_position)
{
    if (index->files != NULL)
        return index_files_stream_position(index->files, stream, i, ret_position);
    *ret_position = index_memory_stream_position(index->memory, stream->slot, i);
    return ERR_OK;
}

enum err index_partition_position(struct index *index, const struct index_partition *partition,
                                  uint32_t i, uint32_t *ret_position)
{
    if (index->files != NULL)
        return index_files_partition_position(index->files, partition, i, ret_position);
    *ret_position = index_memory_partition_position(index->memory, partition->slot, i);
    return ERR_OK;
}
