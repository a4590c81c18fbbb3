/* Older entries from the files: from every idx, in pieces of any size, across segments and cuts, up
 * to the durable end; with damage never a wrong entry, and every whole one that can be told from a
 * dead one. */
#include "bucketd/core/history.h"

#include "bucketd/core/wal_internal.h"
#include "tests/sim/prng.h"
#include "tests/unit/bucketd/wal_support.h"

#define IDX_MAX 3000u

/* A log, and what each idx of it holds: the chain tells content and all that stands before. */
struct log_model {
    struct run *run;
    uint64_t last;
    uint64_t terms[IDX_MAX], chains[IDX_MAX];
    struct lsn durable_ends[200]; /* after each flush ... */
    uint64_t durable_idxs[200];   /* ... and what it made durable */
    size_t flushes;
    struct history_read read;
};

static void note(struct log_model *log)
{
    log->last = wal_last_idx(log->run->wal);
    ck_assert_uint_lt(log->last, IDX_MAX);
    log->terms[log->last] = wal_last_term(log->run->wal);
    log->chains[log->last] = wal_last_chain(log->run->wal);
}

static struct lsn durable_end(const struct run *run)
{
    uint64_t segment = wal_segment(run->wal);
    while (wal_durable_end(run->wal, segment) == 0)
        segment--;
    return (struct lsn){.segment = segment, .offset = wal_durable_end(run->wal, segment)};
}

static void flush(struct log_model *log)
{
    run_flush(log->run);
    ck_assert_uint_lt(log->flushes, 200);
    log->durable_ends[log->flushes] = durable_end(log->run);
    log->durable_idxs[log->flushes++] = wal_durable_idx(log->run->wal);
}

static struct log_model *log_new(uint64_t segment_bytes, size_t data_max, uint32_t replicas)
{
    struct log_model *log = calloc(1, sizeof *log);
    ck_assert_ptr_nonnull(log);
    log->run = run_new(segment_bytes, data_max, NULL);
    log->run->config.replica_count = replicas;
    log->run->config.compression = true;
    for (uint32_t i = 0; i < replicas; i++)
        log->run->config.replicas[i] = i;
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(log->run, &recovery), ERR_OK);
    note(log);
    ck_assert(run_term(log->run));
    note(log);
    struct format_salt salt = {.cluster_id = log->run->config.cluster_id,
                               .bucket = log->run->config.bucket};
    history_init(&log->read, &salt);
    return log;
}

static void log_free(struct log_model *log)
{
    history_release(&log->read);
    run_free(log->run);
    free(log);
}

static void append(struct log_model *log, int count, int per_flush)
{
    for (int i = 0; i < count; i++) {
        ck_assert(run_append(log->run));
        note(log);
        if (i % per_flush == per_flush - 1)
            flush(log);
        if (log->run->config.replica_count > 1 && wal_durable_idx(log->run->wal) > 3)
            wal_commit(log->run->wal, wal_durable_idx(log->run->wal) - 3);
    }
    flush(log);
}

static struct log_model *log_of_many_segments(void)
{
    struct log_model *log = log_new(6000, 90, 1);
    append(log, 150, 4);
    ck_assert_uint_gt(wal_segment(log->run->wal), 4);
    return log;
}

/* Reads, and checks what comes against the model; returns the result. */
static enum err read_some(struct log_model *log, uint64_t from_idx, uint64_t to_idx, uint64_t bytes)
{
    struct history_read *read = &log->read;
    if (read->durable.offset == 0)
        read->durable = durable_end(log->run);
    read->from_idx = from_idx;
    read->to_idx = to_idx;
    read->bytes = bytes;
    int files_open = log->run->mem->files_open;
    read->job.work(&read->job, &log->run->mem->disk);
    ck_assert_int_eq(log->run->mem->files_open, files_open);
    if (read->err != ERR_OK) {
        ck_assert_uint_eq(read->count, 0);
        return read->err;
    }
    ck_assert_uint_gt(read->count, 0);
    ck_assert(read->prev_known || read->unsure);
    if (read->prev_known) {
        ck_assert_uint_eq(read->prev_term, log->terms[from_idx - 1]);
        ck_assert_uint_eq(read->prev_chain, log->chains[from_idx - 1]);
    }
    size_t at = 0;
    for (uint64_t idx = from_idx; idx < from_idx + read->count; idx++) {
        const struct entry_head *head = (const void *)(read->entries.ptr + at);
        struct buf scratch = {0};
        uint64_t chain;
        ck_assert_uint_eq(head->idx, idx);
        ck_assert_uint_eq(head->term, log->terms[idx]);
        ck_assert_uint_eq(head->chain, log->chains[idx]);
        struct span bytes_of = span_of(read->entries.ptr + at, head->record.len);
        ck_assert_int_eq(wal_entry_chain(bytes_of, log->chains[idx - 1], &scratch, &chain), ERR_OK);
        ck_assert_uint_eq(chain, head->chain);
        buf_release(&scratch);
        at += head->record.len;
        ck_assert(at <= bytes || idx == from_idx);
    }
    ck_assert_uint_eq(at, read->entries.len);
    ck_assert_uint_eq(read->last_idx, from_idx + read->count - 1);
    ck_assert_uint_le(read->last_idx, to_idx);
    ck_assert_uint_eq(read->last_term, log->terms[read->last_idx]);
    ck_assert_uint_eq(read->last_chain, log->chains[read->last_idx]);
    return ERR_OK;
}

/* All from this idx on, going on each time from where the last read ended. */
static uint64_t read_on(struct log_model *log, uint64_t from_idx, uint64_t bytes)
{
    while (read_some(log, from_idx, UINT64_MAX, bytes) == ERR_OK)
        from_idx = log->read.last_idx + 1;
    ck_assert_int_eq(log->read.err, ERR_NOTFOUND);
    return from_idx - 1;
}

START_TEST(all_is_read_in_pieces_of_any_size_with_one_search)
{
    struct log_model *log = log_of_many_segments();
    for (uint64_t bytes = 0; bytes < 30000; bytes = bytes * 3 + 100) {
        uint64_t searches = log->read.searches;
        ck_assert_uint_eq(read_on(log, 1, bytes), log->last);
        ck_assert_uint_eq(log->read.searches, searches + 1);
    }
    log_free(log);
}
END_TEST

START_TEST(from_every_idx_and_up_to_any)
{
    struct log_model *log = log_of_many_segments();
    for (uint64_t from = 1; from <= log->last; from++) {
        ck_assert_int_eq(read_some(log, from, UINT64_MAX, 0), ERR_OK);
        ck_assert_uint_eq(log->read.count, 1);
        log->read.next_idx = 0; /* the next one searches */
        ck_assert_int_eq(read_some(log, from, from + 20, 1 << 20), ERR_OK);
        ck_assert_uint_eq(log->read.last_idx, min_u64(from + 20, log->last));
        ck_assert_int_eq(read_some(log, from, from, 1 << 20), ERR_OK);
        ck_assert_uint_eq(log->read.count, 1);
    }
    ck_assert_int_eq(read_some(log, log->last + 1, UINT64_MAX, 100), ERR_NOTFOUND);
    ck_assert_int_eq(read_some(log, log->last + 2, UINT64_MAX, 100), ERR_NOTFOUND);
    ck_assert_int_eq(read_some(log, log->last + 100, UINT64_MAX, 100), ERR_NOTFOUND);
    log_free(log);
}
END_TEST

START_TEST(nothing_beyond_the_durable_end_and_more_when_it_moves)
{
    struct log_model *log = log_of_many_segments();
    /* A reader that follows, and for each end one that searches. */
    uint64_t followed = 0, searches = log->read.searches;
    for (size_t i = 0; i < log->flushes; i++) {
        log->read.durable = log->durable_ends[i];
        enum err err = read_some(log, followed + 1, UINT64_MAX, 1 << 20);
        if (err == ERR_OK)
            followed = log->read.last_idx;
        else
            ck_assert_int_eq(err, ERR_NOTFOUND);
        ck_assert_uint_eq(followed, log->durable_idxs[i]);
    }
    ck_assert_uint_eq(log->read.searches, searches + 1);
    for (size_t i = 0; i < log->flushes; i++) {
        log->read.durable = log->durable_ends[i];
        ck_assert_uint_eq(read_on(log, 1, 700), log->durable_idxs[i]);
        ck_assert_int_eq(read_some(log, log->durable_idxs[i] + 1, UINT64_MAX, 10), ERR_NOTFOUND);
    }
    log_free(log);
}
END_TEST

START_TEST(older_than_the_oldest_segment_is_not_there)
{
    struct log_model *log = log_of_many_segments();
    log->read.first_segment = 2;
    uint64_t first = 1;
    while (read_some(log, first, UINT64_MAX, 0) == ERR_NOTFOUND)
        first++;
    ck_assert_int_eq(log->read.err, ERR_OK);
    ck_assert_uint_gt(first, 2);
    ck_assert_uint_eq(log->read.map.segment, 2);
    ck_assert_uint_eq(read_on(log, first, 1000), log->last);
    log_free(log);
}
END_TEST

START_TEST(a_batch_larger_than_any_window)
{
    struct log_model *log = log_new(8 << 20, 60000, 1);
    append(log, 60, 30);
    ck_assert_uint_gt(durable_end(log->run).offset, 3 << 20);
    ck_assert_uint_eq(read_on(log, 1, 100000), log->last);
    ck_assert_uint_eq(read_on(log, 1, 4 << 20), log->last);
    log_free(log);
}
END_TEST

/* --- cuts --- */

static void make_room(struct log_model *log, uint64_t bound, enum wal_room room)
{
    struct wal *wal = log->run->wal;
    for (int tries = 0; wal_fits(wal, bound, room) != ERR_OK; tries++) {
        ck_assert_int_lt(tries, 20);
        run_flush(log->run);
        if (room == ROOM_WAIT)
            wal_commit(wal, wal_durable_idx(wal));
    }
}

/* Another leader's log has less: what it lacks is cut, and goes on in its term. */
static bool cut_some(struct log_model *log, struct prng *state)
{
    struct wal *wal = log->run->wal;
    uint64_t committed = wal_commit_idx(wal), last = wal_last_idx(wal);
    if (last <= committed)
        return false;
    make_room(log, WAL_TERM_BOUND, ROOM_MUST);
    wal_append_vote(wal, wal_term(wal) + 1, 0);
    if (prng_below(state, 2) == 0)
        flush(log);
    make_room(log, WAL_CUT_BOUND, ROOM_MUST);
    wal_append_cut(wal, committed + 1 + prng_below(state, last - committed), wal_term(wal));
    log->run->acked = 0;
    note(log);
    return true;
}

static void random_step(struct log_model *log, struct prng *state)
{
    struct wal *wal = log->run->wal;
    switch (prng_below(state, 8)) {
    case 0:
        flush(log);
        break;
    case 1:
        wal_commit(wal, wal_commit_idx(wal) +
                            prng_below(state, wal_durable_idx(wal) - wal_commit_idx(wal) + 1));
        break;
    case 2:
        if (prng_below(state, 2) == 0 && cut_some(log, state) && prng_below(state, 2) == 0)
            flush(log);
        break;
    default:
        make_room(log, 4096, ROOM_WAIT);
        ck_assert(run_append(log->run));
        note(log);
    }
}

START_TEST(the_dead_are_passed_over)
{
    for (uint64_t seed = 1; seed <= 25; seed++) {
        struct log_model *log = log_new(seed % 2 == 0 ? 9000 : 20000, 90, 3);
        struct prng state = {.state = seed};
        uint64_t cuts = 0, followed = 0;
        struct history_read follower;
        history_init(&follower, &log->read.salt);
        for (int i = 0; i < 250; i++) {
            random_step(log, &state);
            if (prng_below(&state, 6) != 0)
                continue;
            /* One that reads what is committed as it comes; nothing of it can be cut. */
            struct history_read own = log->read;
            log->read = follower;
            log->read.durable = durable_end(log->run);
            uint64_t upto = min_u64(wal_commit_idx(log->run->wal), wal_durable_idx(log->run->wal));
            if (followed < upto && read_some(log, followed + 1, upto, 600) == ERR_OK)
                followed = log->read.last_idx;
            follower = log->read;
            log->read = own;
        }
        flush(log);
        cuts = log->read.map.cuts_len;
        ck_assert_uint_gt(followed, 30);
        ck_assert_uint_le(follower.searches, 1);
        history_release(&follower);
        for (uint64_t bytes = 0; bytes < 10000; bytes = bytes * 4 + 300)
            ck_assert_uint_eq(read_on(log, 1, bytes), log->last);
        for (uint64_t from = 1; from <= log->last; from++) {
            log->read.next_idx = 0;
            ck_assert_int_eq(read_some(log, from, UINT64_MAX, 500), ERR_OK);
            cuts += log->read.map.cuts_len;
        }
        ck_assert_int_eq(read_some(log, log->last + 1, UINT64_MAX, 10), ERR_NOTFOUND);
        ck_assert_uint_gt(cuts, 0);
        log_free(log);
    }
}
END_TEST

START_TEST(going_on_behind_a_new_cut_is_a_search)
{
    struct log_model *log = log_new(1 << 20, 90, 3);
    append(log, 10, 5);
    ck_assert_uint_eq(read_on(log, 1, 500), 12);
    make_room(log, WAL_TERM_BOUND, ROOM_MUST);
    wal_append_vote(log->run->wal, 2, 0);
    make_room(log, WAL_CUT_BOUND, ROOM_MUST);
    wal_append_cut(log->run->wal, 11, 2);
    log->run->acked = 0;
    note(log);
    append(log, 4, 2);
    log->read.durable = durable_end(log->run);
    uint64_t searches = log->read.searches;
    ck_assert_int_eq(read_some(log, 13, UINT64_MAX, 10000), ERR_OK);
    ck_assert_uint_eq(log->read.prev_term, 2);
    ck_assert_uint_eq(log->read.searches, searches + 1);
    ck_assert_uint_eq(log->read.last_idx, 14);
    ck_assert_uint_eq(read_on(log, 1, 500), 14);
    log_free(log);
}
END_TEST

/* --- damage --- */

/* Where the batches of a segment are, and what they hold. */
struct batch {
    uint64_t offset, bytes, first_idx, last_idx;
    bool plain; /* entries only */
};

static size_t batches_of(struct log_model *log, const char *path, struct batch batches[static 64])
{
    const struct buf *file = mem_disk_bytes(log->run->mem, path);
    uint64_t at = load_u64(file->ptr + offsetof(struct segment_header, data_start));
    size_t count = 0;
    while (at + sizeof(struct batch_mark) <= file->len &&
           load_u64(file->ptr + at) == BATCH_HEAD_MAGIC) {
        struct batch_mark head;
        memcpy(&head, file->ptr + at, sizeof head);
        ck_assert_uint_lt(count, 64);
        batches[count++] = (struct batch){
            .offset = at,
            .bytes = head.bytes,
            .first_idx = head.first_idx,
            .last_idx = head.first_idx == 0 ? 0 : head.last_idx,
            .plain = head.first_idx != 0 && head.records == head.last_idx + 1 - head.first_idx,
        };
        at += head.bytes;
    }
    return count;
}

static bool holds(const struct batch *batch, uint64_t idx)
{
    return batch->first_idx > 0 && batch->first_idx <= idx && idx <= batch->last_idx;
}

/* What is read of a log in which this batch of the segment is damaged: all but its entries, by who
 * takes also what may be dead; else all that no lost cut could have killed, and whose predecessor
 * is known. */
static void expect_around(struct log_model *log, uint64_t segment, const struct batch *bad,
                          bool head_bad, uint64_t segment_first, uint64_t segment_last)
{
    struct history_read *read = &log->read;
    bool unsure = head_bad || !bad->plain;
    for (uint64_t idx = 1; idx <= log->last; idx++) {
        /* The next segment's checkpoint tells of the last one. */
        bool told = idx - 1 == segment_last;
        bool lost = holds(bad, idx), prev_lost = !told && holds(bad, idx - 1);
        bool doubted = unsure && segment_first <= idx && idx < bad->first_idx;
        bool prev_doubted = !told && unsure && segment_first <= idx - 1 && idx - 1 < bad->first_idx;
        read->next_idx = 0;
        read->unsure = true;
        enum err err = read_some(log, idx, UINT64_MAX, 0);
        ck_assert_int_eq(err, lost ? ERR_CORRUPT : ERR_OK);
        if (!lost)
            ck_assert(read->prev_known == !prev_lost);
        read->next_idx = 0;
        read->unsure = false;
        err = read_some(log, idx, UINT64_MAX, 0);
        ck_assert_int_eq(err, lost || prev_lost || doubted || prev_doubted ? ERR_CORRUPT : ERR_OK);
        if (err == ERR_CORRUPT) {
            ck_assert_uint_eq(read->damaged_segment, segment);
            ck_assert(read->hole_idx == idx || read->hole_idx + 1 == idx);
        }
    }
}

START_TEST(damage_hides_its_batch_and_nothing_else)
{
    struct log_model *log = log_new(14000, 90, 1);
    append(log, 60, 4);
    uint64_t newest = wal_segment(log->run->wal);
    ck_assert_uint_ge(newest, 2);
    read_on(log, 1, 1000);
    for (uint64_t segment = 1; segment <= newest; segment += newest - 1) {
        char path[48];
        struct batch batches[64];
        wal_data_path(segment, false, path);
        size_t count = batches_of(log, path, batches);
        ck_assert_uint_gt(count, 2);
        struct buf *file = mem_disk_bytes(log->run->mem, path);
        for (size_t i = 0; i < count; i++) {
            const struct batch *bad = &batches[i];
            uint64_t places[] = {
                0, 8, 60, sizeof(struct batch_mark) + 30, bad->bytes / 2, bad->bytes - 60};
            for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
                file->ptr[bad->offset + places[p]] ^= 0x10;
                expect_around(log, segment, bad, places[p] < sizeof(struct batch_mark),
                              batches[0].first_idx,
                              segment < newest ? batches[count - 1].last_idx : UINT64_MAX);
                file->ptr[bad->offset + places[p]] ^= 0x10;
            }
        }
    }
    log_free(log);
}
END_TEST

START_TEST(where_a_cut_may_be_lost_nothing_dead_is_delivered)
{
    uint64_t doubted = 0;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct log_model *log = log_new(12000, 90, 3);
        struct prng state = {.state = seed};
        for (int i = 0; i < 120; i++)
            random_step(log, &state);
        flush(log);
        for (uint64_t segment = 0; segment <= wal_segment(log->run->wal); segment++) {
            char path[48];
            struct batch batches[64];
            wal_data_path(segment, false, path);
            struct buf *file = mem_disk_bytes(log->run->mem, path);
            for (size_t i = batches_of(log, path, batches); i-- > 0;) {
                uint64_t place = batches[i].offset + sizeof(struct batch_mark) + 10;
                file->ptr[place] ^= 1;
                for (uint64_t from = 1; from <= log->last; from += 1 + prng_below(&state, 4)) {
                    log->read.next_idx = 0;
                    doubted += read_some(log, from, UINT64_MAX, 800) != ERR_OK && !batches[i].plain;
                }
                file->ptr[place] ^= 1;
            }
        }
        log_free(log);
    }
    ck_assert_uint_gt(doubted, 10);
}
END_TEST

START_TEST(a_segment_whose_front_is_damaged_is_missed_as_a_whole)
{
    struct log_model *log = log_of_many_segments();
    uint64_t newest = wal_segment(log->run->wal);
    for (uint64_t segment = 0; segment <= newest; segment++) {
        char path[48];
        struct batch batches[64];
        wal_data_path(segment, false, path);
        struct buf *file = mem_disk_bytes(log->run->mem, path);
        size_t count = batches_of(log, path, batches);
        uint64_t first = batches[0].first_idx, last = batches[count - 1].last_idx;
        file->ptr[FORMAT_BLOCK + 20] ^= 1;
        ck_assert_uint_eq(read_on(log, 1, 1000), log->last); /* the other copy */
        file->ptr[2 * FORMAT_BLOCK + 20] ^= 1;
        for (uint64_t idx = 1; idx <= log->last; idx++) {
            bool lost = idx >= first && idx - 1 <= last;
            log->read.next_idx = 0;
            enum err err = read_some(log, idx, UINT64_MAX, 0);
            /* The next segment's checkpoint tells of the entry before. */
            lost = lost && !(idx == last + 1 && segment < newest);
            ck_assert_int_eq(err, lost ? ERR_CORRUPT : ERR_OK);
            if (lost)
                ck_assert_uint_eq(log->read.damaged_segment, segment);
        }
        file->ptr[FORMAT_BLOCK + 20] ^= 1;
        file->ptr[2 * FORMAT_BLOCK + 20] ^= 1;
    }
    ck_assert_uint_eq(read_on(log, 1, 1000), log->last);
    log_free(log);
}
END_TEST

START_TEST(any_flipped_bit_leaves_only_right_entries)
{
    struct log_model *log = log_new(5000, 60, 1);
    append(log, 30, 3);
    const char *path = "segments/0000000001/data.evts";
    struct buf *file = mem_disk_bytes(log->run->mem, path);
    log->read.durable = durable_end(log->run);
    uint64_t whole = 0, cut_short = 0;
    for (size_t at = 0; at < file->len; at += 37) {
        file->ptr[at] ^= (uint8_t)(1u << at % 8);
        for (uint64_t from = 1; from <= log->last; from += 11) {
            uint64_t idx = from;
            while (read_some(log, idx, UINT64_MAX, 300) == ERR_OK)
                idx = log->read.last_idx + 1;
            ck_assert(log->read.err == ERR_CORRUPT || log->read.err == ERR_NOTFOUND);
            ck_assert(log->read.err == ERR_CORRUPT || idx == log->last + 1);
            whole += log->read.err == ERR_NOTFOUND;
            cut_short += log->read.err == ERR_CORRUPT;
        }
        file->ptr[at] ^= (uint8_t)(1u << at % 8);
    }
    ck_assert_uint_gt(whole, 100);
    ck_assert_uint_gt(cut_short, 100);
    log_free(log);
}
END_TEST

START_TEST(a_file_cut_short_or_missing_is_damage)
{
    struct log_model *log = log_of_many_segments();
    const char *path = "segments/0000000001/data.evts";
    struct buf *file = mem_disk_bytes(log->run->mem, path);
    log->read.durable = durable_end(log->run);
    for (size_t len = file->len; len > 0; len -= min_u64(len, 333)) {
        mem_disk_resize(log->run->mem, path, len - 1);
        uint64_t idx = 1;
        while (read_some(log, idx, UINT64_MAX, 1000) == ERR_OK)
            idx = log->read.last_idx + 1;
        ck_assert(log->read.err == ERR_CORRUPT || idx == log->last + 1);
        ck_assert(log->read.err == ERR_NOTFOUND || log->read.damaged_segment == 1);
    }
    ck_assert_int_eq(log->run->mem->disk.ops->unlink(&log->run->mem->disk, path), ERR_OK);
    ck_assert_int_eq(read_some(log, log->last, UINT64_MAX, 0), ERR_OK);
    log->read.next_idx = 0;
    uint64_t idx = 1;
    while (read_some(log, idx, UINT64_MAX, 1000) == ERR_OK)
        idx = log->read.last_idx + 1;
    ck_assert_int_eq(log->read.err, ERR_CORRUPT);
    log_free(log);
}
END_TEST

START_TEST(a_file_that_was_replaced_is_read_anew)
{
    struct log_model *log = log_new(6000, 90, 1), *other = log_new(6000, 90, 1);
    append(log, 60, 4);
    append(other, 60, 7); /* the same entries in other batches */
    ck_assert_uint_eq(log->chains[60], other->chains[60]);
    const char *path = "segments/0000000000/data.evts";
    struct buf *file = mem_disk_bytes(log->run->mem, path);
    const struct buf *replacement = mem_disk_bytes(other->run->mem, path);
    struct batch batches[64];
    size_t count = batches_of(other, path, batches);
    uint64_t end = batches[count - 1].last_idx;
    log->read.durable = (struct lsn){.segment = 1, .offset = 0};
    ck_assert_int_eq(read_some(log, 1, UINT64_MAX, 1000), ERR_OK);
    uint64_t idx = log->read.last_idx + 1;
    buf_clear(file, SIZE_MAX);
    buf_append_span(file, buf_span(replacement));
    while (idx <= end) {
        ck_assert_int_eq(read_some(log, idx, UINT64_MAX, 1000), ERR_OK);
        idx = log->read.last_idx + 1;
    }
    log_free(log);
    log_free(other);
}
END_TEST

int main(void)
{
    const TTest *const all[] = {all_is_read_in_pieces_of_any_size_with_one_search,
                                from_every_idx_and_up_to_any,
                                nothing_beyond_the_durable_end_and_more_when_it_moves,
                                older_than_the_oldest_segment_is_not_there,
                                a_batch_larger_than_any_window,
                                the_dead_are_passed_over,
                                going_on_behind_a_new_cut_is_a_search,
                                damage_hides_its_batch_and_nothing_else,
                                where_a_cut_may_be_lost_nothing_dead_is_delivered,
                                a_segment_whose_front_is_damaged_is_missed_as_a_whole,
                                any_flipped_bit_leaves_only_right_entries,
                                a_file_cut_short_or_missing_is_damage,
                                a_file_that_was_replaced_is_read_anew};
    return run_tests("history", all, sizeof all / sizeof all[0]);
}
