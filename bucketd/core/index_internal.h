/* The two forms behind index.h. Only index*.c include this. */
#pragma once

#include "bucketd/core/index.h"

struct index_memory;
struct index_files;

/* Exactly one of them is set. */
struct index {
    struct index_memory *memory;
    struct index_files *files;
};

/* --- index_memory.c --- */
struct index_memory *index_memory_new(uint64_t hash_seed);
void index_memory_free(struct index_memory *memory);
void index_memory_add(struct index_memory *memory, const struct index_event *event);
void index_memory_pop(struct index_memory *memory);
size_t index_memory_bytes(const struct index_memory *memory);

enum err index_memory_find_event(const struct index_memory *memory, const struct uuid *event_id,
                                 uint32_t skip, uint32_t *ret_position) MUST_CHECK;
enum err index_memory_find_stream(const struct index_memory *memory, uint32_t partition,
                                  struct span stream, struct index_stream *ret_stream) MUST_CHECK;
enum err index_memory_find_partition(const struct index_memory *memory, uint32_t partition,
                                     struct index_partition *ret_partition) MUST_CHECK;
uint32_t index_memory_stream_position(const struct index_memory *memory, uint32_t slot, uint32_t i);
uint32_t index_memory_partition_position(const struct index_memory *memory, uint32_t slot,
                                         uint32_t i);

/* What the writer walks: all views live as long as the index doesn't change. Events in log order,
 * streams and partitions in the order of their first events. */
struct index_memory_stream {
    uint32_t slot;
    uint32_t partition;
    struct uuid partition_key;
    struct span name;
    uint64_t first_version;
    const uint32_t *positions;
    uint32_t count;
};
struct index_memory_partition {
    uint32_t partition;
    uint64_t first_seq;
    const uint32_t *positions;
    uint32_t count;
};
uint32_t index_memory_events(const struct index_memory *memory);
uint32_t index_memory_streams(const struct index_memory *memory);
uint32_t index_memory_partitions(const struct index_memory *memory);
struct uuid index_memory_event(const struct index_memory *memory, uint32_t i,
                               uint32_t *ret_position);
struct index_memory_stream index_memory_stream(const struct index_memory *memory, uint32_t slot);
/* Goes on to the next stream, from a zeroed one to the first; false after the last. */
bool index_memory_next_stream(const struct index_memory *memory,
                              struct index_memory_stream *stream);
struct index_memory_partition index_memory_partition(const struct index_memory *memory, uint32_t i);

/* --- index_file_read.c, index_file_check.c --- */
void index_files_free(struct index_files *files, struct disk *disk);
uint32_t index_files_events(const struct index_files *files);
size_t index_files_bytes(const struct index_files *files);
size_t index_files_memory(const struct index_files *files);
enum err index_files_find_event(struct index_files *files, const struct uuid *event_id,
                                uint32_t skip, uint32_t *ret_position) MUST_CHECK;
enum err index_files_find_stream(struct index_files *files, uint32_t partition, struct span stream,
                                 struct index_stream *ret_stream) MUST_CHECK;
enum err index_files_find_partition(struct index_files *files, uint32_t partition,
                                    struct index_partition *ret_partition) MUST_CHECK;
enum err index_files_stream_position(struct index_files *files, const struct index_stream *stream,
                                     uint32_t i, uint32_t *ret_position) MUST_CHECK;
enum err index_files_partition_position(struct index_files *files,
                                        const struct index_partition *partition, uint32_t i,
                                        uint32_t *ret_position) MUST_CHECK;
enum err index_files_check(struct index_files *files) MUST_CHECK;
