/* What is whole of a damaged segment. */
#include "bucketd/core/salvage.h"

#include <stdlib.h>

static enum err read_segment(struct salvage *salvage, struct disk *disk);
static void take_end(struct salvage *salvage, const struct wal_pass *pass,
                     const struct wal_front *front);
static enum err read_before(struct salvage *salvage, struct disk *disk);
static void read_behind(struct salvage *salvage, struct disk *disk);
static enum err pass_open(const struct salvage *salvage, struct disk *disk, uint64_t segment,
                          const struct wal_scan *scan, struct wal_reader *reader,
                          struct wal_front *front, struct wal_pass *pass);
static void pass_close(struct wal_pass *pass);
static void take_start(struct salvage *salvage, const struct wal_pass *pass);
static void on_entry(void *ctx, const struct wal_entry *entry);
static void on_record(void *ctx, uint64_t offset, const struct record_head *record);
static void on_cut(void *ctx, uint64_t from_idx);
static void runs_cut(struct salvage_runs *runs, uint64_t from_idx);
static void runs_add(struct salvage_runs *runs, uint64_t idx);

void salvage_work(struct job *job, struct disk *disk)
{
    struct salvage *salvage = (struct salvage *)job;
    salvage->err = read_segment(salvage, disk);
    if (salvage->err == ERR_CORRUPT)
        salvage->err = read_before(salvage, disk);
    if (salvage->err == ERR_OK && !salvage->newest)
        read_behind(salvage, disk);
}

_Static_assert(offsetof(struct salvage, job) == 0, "a job is its salvage");

void salvage_release(struct salvage *salvage)
{
    free(salvage->start.state.next_seq);
    free(salvage->sure.list);
    free(salvage->perhaps.list);
    *salvage = (struct salvage){0};
}

/* ERR_CORRUPT: its front tells nothing. What can't be read of the rest is damage too. */
static enum err read_segment(struct salvage *salvage, struct disk *disk)
{
    struct wal_scan scan = {
        .ctx = salvage, .on_entry = on_entry, .on_record = on_record, .on_cut = on_cut};
    struct wal_reader reader = {0};
    struct wal_front front;
    struct wal_pass pass;
    enum err err = pass_open(salvage, disk, salvage->segment, &scan, &reader, &front, &pass);
    if (err != ERR_OK)
        return err == ERR_NOTFOUND || err == ERR_IO ? ERR_CORRUPT : err;
    take_start(salvage, &pass);
    err = wal_pass_run(&pass);
    bool sound = err == ERR_OK && pass.rots == 0 && !front.header_bad && front.checkpoints_bad == 0;
    salvage->whole = sound && (front.sealed || (salvage->newest && pass.state.last_idx > 0));
    if (err == ERR_OK)
        take_end(salvage, &pass, &front);
    else
        salvage->sure.len = salvage->perhaps.len = 0;
    pass_close(&pass);
    return ERR_OK;
}

static void take_end(struct salvage *salvage, const struct wal_pass *pass,
                     const struct wal_front *front)
{
    if (front->sealed) {
        salvage->end_known = salvage->end_chain_known = true;
        salvage->end_idx = front->footer.last_idx;
        salvage->end_chain = front->footer.last_chain;
        salvage->whole = salvage->whole && pass->state.last_idx == salvage->end_idx &&
                         pass->state.last_chain == salvage->end_chain;
    } else if (salvage->newest && !pass->end_unknown && pass->state.last_idx > 0) {
        salvage->end_known = true;
        salvage->end_idx = pass->state.last_idx;
        salvage->end_term = pass->state.last_term;
    }
}

/* Neither header nor checkpoint: the segment begins where the one before ends. */
static enum err read_before(struct salvage *salvage, struct disk *disk)
{
    const struct wal_config *config = &salvage->config;
    struct rewrite_start *start = &salvage->start;
    uint32_t slots = wal_slot_count(config->bucket, config->bucket_count, config->partition_count);
    salvage->whole = false;
    salvage->sure.len = salvage->perhaps.len = 0;
    if (salvage->segment == 0) {
        *start = (struct rewrite_start){.disk_id = salvage->disk_id};
        start->state.next_seq = calloc(slots + 1, sizeof(uint64_t));
        ASSERT(start->state.next_seq != NULL);
        return ERR_OK;
    }
    if (salvage->segment == salvage->first_segment)
        return ERR_CORRUPT;
    struct wal_scan scan = {.ctx = salvage};
    struct wal_reader reader = {0};
    struct wal_front front;
    struct wal_pass pass;
    enum err err = pass_open(salvage, disk, salvage->segment - 1, &scan, &reader, &front, &pass);
    salvage->before_damaged = err == ERR_CORRUPT;
    if (err != ERR_OK)
        return err;
    err = wal_pass_run(&pass);
    if (err == ERR_OK && pass.rots > 0)
        err = ERR_CORRUPT;
    salvage->before_damaged = err == ERR_CORRUPT;
    if (err == ERR_OK)
        take_start(salvage, &pass);
    pass_close(&pass);
    return err;
}

/* The next segment's checkpoint tells where this one ends, whatever this one says itself. */
static void read_behind(struct salvage *salvage, struct disk *disk)
{
    struct wal_scan scan = {.ctx = salvage};
    struct wal_reader reader = {0};
    struct wal_front front;
    struct wal_pass pass;
    if (pass_open(salvage, disk, salvage->segment + 1, &scan, &reader, &front, &pass) != ERR_OK)
        return;
    if (salvage->end_known && (salvage->end_idx != front.checkpoint.last_idx ||
                               salvage->end_chain != front.checkpoint.last_chain))
        salvage->whole = false;
    salvage->end_known = salvage->end_chain_known = true;
    salvage->end_idx = front.checkpoint.last_idx;
    salvage->end_chain = front.checkpoint.last_chain;
    pass_close(&pass);
}

static enum err pass_open(const struct salvage *salvage, struct disk *disk, uint64_t segment,
                          const struct wal_scan *scan, struct wal_reader *reader,
                          struct wal_front *front, struct wal_pass *pass)
{
    const struct wal_config *config = &salvage->config;
    struct segment_header expected = wal_header_make(config, segment, salvage->disk_id);
    struct buf what = {0};
    char path[48];
    *pass = (struct wal_pass){
        .reader = reader,
        .salt = {.cluster_id = config->cluster_id, .bucket = config->bucket, .segment = segment},
        .bucket_count = config->bucket_count,
        .partition_count = config->partition_count,
        .scan = scan,
        .deep = true,
    };
    wal_data_path(segment, false, path);
    enum err err = wal_reader_open(reader, disk, path);
    if (err != ERR_OK)
        return err;
    err = wal_front_read(reader, &pass->salt, &expected, front, &pass->state.next_seq, &what);
    buf_release(&what);
    if (err != ERR_OK) {
        pass_close(pass);
        return err;
    }
    pass->complete = front->sealed || !(salvage->newest && segment == salvage->segment);
    wal_pass_begin(pass, front);
    return ERR_OK;
}

static void pass_close(struct wal_pass *pass)
{
    wal_reader_close(pass->reader);
    wal_pass_release(pass);
}

/* Where the pass is now is where the segment begins. */
static void take_start(struct salvage *salvage, const struct wal_pass *pass)
{
    const struct wal_config *config = &salvage->config;
    uint32_t slots = wal_slot_count(config->bucket, config->bucket_count, config->partition_count);
    struct rewrite_start *start = &salvage->start;
    start->segment = salvage->segment;
    start->disk_id = salvage->disk_id;
    start->state = pass->state;
    start->config = *wal_undo_in_force(&pass->undo);
    start->state.next_seq = malloc((slots + 1) * sizeof(uint64_t));
    ASSERT(start->state.next_seq != NULL);
    memcpy(start->state.next_seq, pass->state.next_seq, slots * sizeof(uint64_t));
}

static void on_entry(void *ctx, const struct wal_entry *entry)
{
    struct salvage *salvage = ctx;
    runs_add(&salvage->sure, entry->head->idx);
    /* One of its idx that stood there before must have been cut. */
    runs_cut(&salvage->perhaps, entry->head->idx);
    runs_add(&salvage->perhaps, entry->head->idx);
}

static void on_record(void *ctx, uint64_t offset, const struct record_head *record)
{
    struct salvage *salvage = ctx;
    (void)offset;
    if (record->kind == RECORD_CUT)
        runs_cut(&salvage->perhaps, ((const struct cut_record *)(const void *)record)->from_idx);
}

/* Also where it is only possible that they were. */
static void on_cut(void *ctx, uint64_t from_idx)
{
    struct salvage *salvage = ctx;
    runs_cut(&salvage->sure, from_idx);
}

static void runs_cut(struct salvage_runs *runs, uint64_t from_idx)
{
    while (runs->len > 0 && runs->list[runs->len - 1].first >= from_idx)
        runs->len--;
    if (runs->len > 0 && runs->list[runs->len - 1].last >= from_idx)
        runs->list[runs->len - 1].last = from_idx - 1;
}

static void runs_add(struct salvage_runs *runs, uint64_t idx)
{
    if (runs->len > 0 && runs->list[runs->len - 1].last + 1 == idx) {
        runs->list[runs->len - 1].last = idx;
        return;
    }
    if (runs->len == runs->cap) {
        runs->cap = runs->cap == 0 ? 8 : runs->cap * 2;
        runs->list = realloc(runs->list, runs->cap * sizeof *runs->list);
        ASSERT(runs->list != NULL);
    }
    runs->list[runs->len++] = (struct salvage_run){.first = idx, .last = idx};
}
