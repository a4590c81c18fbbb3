/* The work of a repair that is done in jobs. */
#include "bucketd/core/repair_build.h"

#include <lz4.h>

#define READ_BYTES (1u << 20)
/* Decompressed chunks: a largest transaction, with what its events have around their data. */
#define PLAIN_BYTES_MAX (2 * TRANSACTION_BYTES_MAX)

static const struct salvage_runs *runs_of(const struct repair_build *build);
static enum err begin(struct repair_build *build, struct disk *disk);
static enum err copy(struct repair_build *build, struct disk *disk);
static enum err add_chunk(struct repair_build *build);
static enum err add_entries(struct repair_build *build, struct span entries, bool *ret_fits);

void repair_build_work(struct job *job, struct disk *disk)
{
    struct repair_build *build = (struct repair_build *)job;
    build->added = 0;
    switch (build->work) {
    case REPAIR_SCAN:
        salvage_work(&build->salvage.job, disk);
        build->err = build->salvage.err;
        break;
    case REPAIR_BEGIN:
        build->err = begin(build, disk);
        break;
    case REPAIR_COPY:
        build->err = copy(build, disk);
        break;
    case REPAIR_ADD:
        build->err = add_chunk(build);
        break;
    case REPAIR_FINISH:
        build->err =
            build->salvage.newest ? rewrite_sync(&build->rewrite) : rewrite_seal(&build->rewrite);
        break;
    }
}

_Static_assert(offsetof(struct repair_build, job) == 0, "a job is its repair_build");

void repair_build_release(struct repair_build *build)
{
    salvage_release(&build->salvage);
    rewrite_release(&build->rewrite);
    history_release(&build->read);
    buf_release(&build->chunk);
    buf_release(&build->plain);
}

const char *repair_work_name(enum repair_work work)
{
    static const char *const names[] = {
        [REPAIR_SCAN] = "scan", [REPAIR_BEGIN] = "begin",   [REPAIR_COPY] = "copy",
        [REPAIR_ADD] = "add",   [REPAIR_FINISH] = "finish",
    };
    return names[work];
}

const struct salvage_run *repair_build_run(const struct repair_build *build, uint64_t idx)
{
    const struct salvage_runs *runs = runs_of(build);
    for (uint32_t i = 0; runs != NULL && i < runs->len; i++) {
        if (runs->list[i].last >= idx)
            return &runs->list[i];
    }
    return NULL;
}

uint64_t repair_build_hole_last(const struct repair_build *build, uint64_t end_idx)
{
    const struct salvage_run *run = repair_build_run(build, build->rewrite.state.last_idx + 1);
    return run == NULL ? end_idx : min_u64(end_idx, run->first - 1);
}

enum repair_verdict repair_build_judge(const struct repair_build *build, uint64_t confirmed_idx)
{
    const struct salvage *salvage = &build->salvage;
    const struct wal_state *state = &build->rewrite.state;
    bool at_end = salvage->end_known && state->last_idx == salvage->end_idx;
    bool same = at_end && (salvage->end_chain_known ? state->last_chain == salvage->end_chain
                                                    : state->last_term == salvage->end_term);
    if (same || (salvage->newest && confirmed_idx != 0 && confirmed_idx == state->last_idx))
        return REPAIR_IS_COMPLETE;
    bool wrong = !salvage->newest && state->last_idx >= salvage->end_idx;
    return wrong ? REPAIR_IS_WRONG : REPAIR_IS_SHORT;
}

static const struct salvage_runs *runs_of(const struct repair_build *build)
{
    if (build->own == OWN_NONE)
        return NULL;
    return build->own == OWN_SURE ? &build->salvage.sure : &build->salvage.perhaps;
}

void repair_build_drop_run(struct repair_build *build)
{
    struct salvage_runs *runs =
        build->own == OWN_SURE ? &build->salvage.sure : &build->salvage.perhaps;
    uint64_t next = build->rewrite.state.last_idx + 1;
    uint32_t i = 0;
    while (i < runs->len && runs->list[i].last < next)
        i++;
    if (i == runs->len)
        return;
    runs->len--;
    memmove(runs->list + i, runs->list + i + 1, (runs->len - i) * sizeof *runs->list);
}

static enum err begin(struct repair_build *build, struct disk *disk)
{
    const struct salvage *salvage = &build->salvage;
    struct index *index = salvage->newest ? NULL : index_new(build->hash_seed);
    history_release(&build->read);
    return rewrite_begin(&build->rewrite, disk, &salvage->config, &salvage->start,
                         build->commit_idx, index);
}

/* From the old file. What can't be read of it, or doesn't follow, is fetched instead. */
static enum err copy(struct repair_build *build, struct disk *disk)
{
    struct history_read *read = &build->read;
    struct wal_state *state = &build->rewrite.state;
    uint64_t segment = build->salvage.segment;
    uint64_t copied = 0;
    if (read->job.work == NULL)
        history_init(read, &build->rewrite.salt);
    read->config = &build->salvage.config;
    read->first_segment = segment;
    read->durable = build->salvage.newest ? build->durable : (struct lsn){.segment = segment + 1};
    read->unsure = true;
    while (state->last_idx < build->upto_idx && copied < build->bytes) {
        read->from_idx = state->last_idx + 1;
        read->to_idx = build->upto_idx;
        read->bytes = READ_BYTES;
        history_work(&read->job, disk);
        if (read->err != ERR_OK)
            return ERR_CORRUPT;
        bool fits = true;
        enum err err = add_entries(build, buf_span(&read->entries), &fits);
        if (err != ERR_OK || !fits)
            return err != ERR_OK ? err : ERR_CORRUPT;
        copied += read->entries.len;
    }
    return ERR_OK;
}

static enum err add_chunk(struct repair_build *build)
{
    struct span entries = buf_span(&build->chunk);
    bool fits = true;
    if (build->raw_bytes > 0) {
        if (build->raw_bytes > PLAIN_BYTES_MAX || build->chunk.len > PLAIN_BYTES_MAX)
            return ERR_OK;
        buf_clear(&build->plain, 2 * READ_BYTES);
        uint8_t *to = buf_extend(&build->plain, build->raw_bytes);
        int got = LZ4_decompress_safe((const char *)build->chunk.ptr, (char *)to,
                                      (int)build->chunk.len, (int)build->raw_bytes);
        if (got < 0 || (uint64_t)got != build->raw_bytes)
            return ERR_OK;
        entries = buf_span(&build->plain);
    }
    return add_entries(build, entries, &fits);
}

/* *ret_fits: all of them followed. */
static enum err add_entries(struct repair_build *build, struct span entries, bool *ret_fits)
{
    struct entry_head head;
    for (size_t at = 0; at < entries.len; at += head.record.len) {
        struct span rest = span_of(entries.ptr + at, entries.len - at);
        *ret_fits = wal_peek_entry(rest, &head) == ERR_OK;
        if (!*ret_fits || head.idx > build->upto_idx)
            return ERR_OK;
        enum err err = rewrite_add(&build->rewrite, span_of(rest.ptr, head.record.len));
        *ret_fits = err == ERR_OK;
        if (err != ERR_OK)
            return err == ERR_CORRUPT ? ERR_OK : err;
        build->added++;
    }
    return ERR_OK;
}
