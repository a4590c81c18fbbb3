/* A naive model of the index, and files written from it, for the tests of the index. */
#pragma once

#include "tests/unit/bucketd/index_support.h"

#define INDEX_DIR "segments/0000000003"
extern const struct format_salt index_salt;

uint64_t next_random(uint64_t *state);
struct uuid random_uuid(uint64_t *state);

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
void model_init(struct model *model, uint32_t streams, uint64_t *seed);
void model_release(struct model *model);
/* Into both; a fresh event of this stream. */
void model_add(struct model *model, struct index *index, uint32_t stream_number, struct uuid id);
void model_pop(struct model *model, struct index *index);
/* So many events of random streams. */
void model_fill(struct model *model, struct index *index, uint32_t events, uint64_t *seed);

/* Every lookup is right; where `damaged`, ERR_CORRUPT is right too. */
void check_stream(struct index *index, const struct model_stream *stream, bool damaged);
void check_against_model(struct index *index, const struct model *model, bool damaged);
/* Exactly so many candidates for this id, of positions with this sum. */
void expect_candidates(struct index *index, const struct uuid *id, uint32_t count,
                       uint64_t position_sum);
/* Writes the files, and maps and compares them. */
void write_and_compare(struct mem_disk *disk, struct index *index, const struct model *model);

/* A disk with INDEX_DIR. */
struct mem_disk *disk_new(void);
void disk_free(struct mem_disk *mem);

struct written {
    struct model model;
    struct mem_disk *disk;
};

void write_small(struct written *written, uint32_t streams, uint32_t events, uint64_t seed);
void release_written(struct written *written);
void ignore_line(void *ctx, const char *text);
