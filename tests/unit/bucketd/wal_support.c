/* A log on a disk in memory with a model beside it: see wal_support.h. */
#include "tests/unit/bucketd/wal_support.h"

#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "common/assert.h"

static uint64_t mix(uint64_t z)
{
    z = (z + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
    return (z ^ (z >> 31)) * 0x94d049bb133111ebull;
}

static uint64_t pick(uint64_t *state, uint64_t below)
{
    *state = mix(*state);
    return (*state >> 11) % below;
}

void run_tx_make(const struct run *run, uint64_t idx, struct run_tx *tx)
{
    uint64_t version = idx + ((uint64_t)run->cuts[idx] << 32), state = version;
    uint32_t slots = run->config.partition_count / run->config.bucket_count;
    *tx = (struct run_tx){0};
    tx->partition = (uint32_t)pick(&state, slots) * run->config.bucket_count + run->config.bucket;
    tx->count = 1 + (uint32_t)(pick(&state, 4) == 0 ? pick(&state, RUN_EVENTS_MAX) : 0);
    store_u64(tx->partition_key.bytes, mix(tx->partition));
    store_u64(tx->transaction_id.bytes, version);
    buf_reserve(&tx->bytes, RUN_EVENTS_MAX * (2 * run->data_max + 400));
    for (uint32_t i = 0; i < tx->count; i++) {
        struct wal_event *event = &tx->events[i];
        store_u64(event->event_id.bytes, idx);
        store_u64(event->event_id.bytes + 8, i);
        event->version = idx * 10 + i;
        event->timestamp_ns = idx * 1000 + i;
        struct span *parts[] = {&event->stream, &event->name, &event->metadata, &event->payload};
        size_t lens[] = {1 + pick(&state, 64), pick(&state, 40), pick(&state, run->data_max + 1),
                         pick(&state, run->data_max + 1)};
        bool compressible = pick(&state, 2) == 0;
        for (size_t p = 0; p < 4; p++) {
            uint8_t *to = buf_extend(&tx->bytes, lens[p]);
            for (size_t b = 0; b < lens[p]; b++)
                to[b] = compressible ? (uint8_t)('a' + (b & 3)) : (uint8_t)pick(&state, 256);
            *parts[p] = span_of(to, lens[p]);
        }
    }
}

struct wal_config run_config(uint64_t segment_bytes)
{
    struct wal_config config = {.node = 0,
                                .bucket = 1,
                                .bucket_count = 4,
                                .partition_count = 32,
                                .segment_bytes = segment_bytes};
    memset(config.cluster_id.bytes, 0xc1, sizeof config.cluster_id.bytes);
    return config;
}

/* --- what comes back --- */

static bool event_equal(const struct event_view *got, const struct wal_event *wanted)
{
    return uuid_equal(&got->event_id, &wanted->event_id) && got->version == wanted->version &&
           got->timestamp_ns == wanted->timestamp_ns && span_equal(got->stream, wanted->stream) &&
           span_equal(got->name, wanted->name) && span_equal(got->metadata, wanted->metadata) &&
           span_equal(got->payload, wanted->payload);
}

static bool entry_matches(struct run *run, const struct wal_entry *entry)
{
    uint64_t idx = entry->head->idx;
    if (idx == 0 || idx >= RUN_ENTRIES_MAX)
        return false;
    if (entry->head->record.entry_kind != ENTRY_TX)
        return !run->is_tx[idx];
    uint64_t hash = XXH3_64bits_withSeed(entry->bytes.ptr, entry->bytes.len,
                                         entry->offset + (entry->segment << 32));
    if (run->verified[idx] == hash)
        return true;
    struct run_tx tx;
    struct buf scratch = {0};
    struct format_salt salt = {.cluster_id = run->config.cluster_id,
                               .bucket = run->config.bucket,
                               .segment = entry->segment};
    run_tx_make(run, idx, &tx);
    uint64_t offset = sizeof(struct entry_head);
    bool ok = run->is_tx[idx] && entry->head->record.count == tx.count;
    for (uint32_t i = 0; ok && i < tx.count; i++) {
        struct event_view view;
        uint32_t position = 0;
        ok = wal_entry_event(entry, &salt, &offset, &scratch, &view, &position) == ERR_OK &&
             event_equal(&view, &tx.events[i]) && view.sequence == run->first_seq[idx] + i &&
             view.partition == tx.partition && uuid_equal(&view.partition_key, &tx.partition_key) &&
             uuid_equal(&view.transaction_id, &tx.transaction_id) &&
             position == run->positions[idx][i] && entry->segment == run->segments[idx];
    }
    if (ok)
        run->verified[idx] = hash;
    buf_release(&tx.bytes);
    buf_release(&scratch);
    return ok;
}

/* The chain tells elsewhere whether it is the right one. */
static void adopt(struct run *run, const struct wal_entry *entry)
{
    uint64_t idx = entry->head->idx, offset = sizeof *entry->head;
    struct format_salt salt = {.cluster_id = run->config.cluster_id,
                               .bucket = run->config.bucket,
                               .segment = entry->segment};
    struct buf scratch = {0};
    struct event_view view;
    run->is_tx[idx] = entry->head->record.entry_kind == ENTRY_TX;
    run->cuts[idx] = (uint8_t)(load_u64(entry->head->transaction_id.bytes) >> 32);
    run->first_seq[idx] = entry->head->first_seq;
    run->segments[idx] = entry->segment;
    for (uint32_t i = 0; i < entry->head->record.count; i++)
        ck_assert_int_eq(
            wal_entry_event(entry, &salt, &offset, &scratch, &view, &run->positions[idx][i]),
            ERR_OK);
    buf_release(&scratch);
}

static void run_on_entry(void *ctx, const struct wal_entry *entry)
{
    struct run *run = ctx;
    if (run->adopts)
        adopt(run, entry);
    run->seen++;
    uint64_t idx = entry->head->idx;
    bool bad = idx <= run->seen_last || !entry_matches(run, entry);
    run->seen_wrong += bad;
    run->seen_bad[idx < RUN_ENTRIES_MAX ? idx : 0] = bad;
    run->seen_last = idx;
}

/* What was delivered and is dead now need not match the model, which has gone on. */
static void run_on_cut(void *ctx, uint64_t from_idx)
{
    struct run *run = ctx;
    ck_assert(from_idx <= run->seen_last);
    for (; run->seen_last >= from_idx; run->seen_last--) {
        run->seen_wrong -= run->seen_bad[run->seen_last];
        run->seen--;
    }
}

static void run_on_durable(void *ctx, uint64_t last_idx, struct lsn at, struct span written)
{
    struct run *run = ctx;
    if (run->config.replica_count <= 1)
        ck_assert_uint_ge(last_idx, run->acked);
    ck_assert_uint_le(last_idx, wal_last_idx(run->wal));
    ck_assert_uint_eq(wal_durable_idx(run->wal), last_idx);
    ck_assert(wal_flushing(run->wal));
    ck_assert_uint_eq(wal_durable_end(run->wal, at.segment), at.offset + written.len);
    run->acked = last_idx;
}

static void run_on_roll(void *ctx, uint64_t new_segment)
{
    struct run *run = ctx;
    ck_assert_uint_eq(new_segment, wal_segment(run->wal) + 1);
    run->rolls++;
}

static void run_on_space(void *ctx)
{
    ((struct run *)ctx)->spaces++;
}

/* --- life
 * ------------------------------------------------------------------------------------------------
 */

struct run *run_new(uint64_t segment_bytes, size_t data_max, struct mem_disk *mem)
{
    struct run *run = calloc(1, sizeof *run);
    ASSERT(run != NULL);
    run->config = run_config(segment_bytes);
    run->data_max = data_max;
    run->mem = mem != NULL ? mem : mem_disk_new();
    return run;
}

void run_free(struct run *run)
{
    wal_free(run->wal);
    ck_assert_int_eq(run->mem->files_open, 0);
    mem_disk_free(run->mem);
    free(run);
}

enum err run_open(struct run *run, struct wal_recovery *ret_recovery)
{
    struct wal_callbacks callbacks = {.ctx = run,
                                      .on_entry = run_on_entry,
                                      .on_cut = run_on_cut,
                                      .on_durable = run_on_durable,
                                      .on_roll = run_on_roll,
                                      .on_space = run_on_space};
    run->seen = run->seen_last = run->seen_wrong = 0;
    run->wal = wal_new(&run->config, &run->mem->env, &callbacks);
    return wal_open(run->wal, ret_recovery);
}

/* Waits until a record of `bound` fits. */
static bool run_fits(struct run *run, uint64_t bound)
{
    enum err err = wal_fits(run->wal, bound, ROOM_WAIT);
    for (int tries = 0; err == ERR_AGAIN && tries < 50; tries++) {
        run_flush(run);
        if (run->commits)
            wal_commit(run->wal, wal_durable_idx(run->wal));
        err = wal_fits(run->wal, bound, ROOM_WAIT);
    }
    ck_assert_int_ne(err, ERR_AGAIN);
    return err == ERR_OK;
}

bool run_term(struct run *run)
{
    if (!run_fits(run, WAL_TERM_BOUND))
        return false;
    wal_append_vote(run->wal, wal_term(run->wal) + 1, 1);
    uint64_t idx = wal_append_noop(run->wal);
    run->is_tx[idx] = false;
    run->verified[idx] = 0;
    return true;
}

void run_cut(struct run *run, uint64_t from_idx)
{
    enum err err = wal_fits(run->wal, WAL_CUT_BOUND, ROOM_MUST);
    for (int tries = 0; err == ERR_AGAIN && tries < 50; tries++) {
        run_flush(run);
        err = wal_fits(run->wal, WAL_CUT_BOUND, ROOM_MUST);
    }
    ck_assert_int_eq(err, ERR_OK);
    for (uint64_t idx = from_idx; idx <= wal_last_idx(run->wal); idx++)
        run->cuts[idx]++;
    wal_append_cut(run->wal, from_idx, wal_term(run->wal));
    run->acked = min_u64(run->acked, from_idx - 1);
    ck_assert_uint_eq(wal_last_idx(run->wal), from_idx - 1);
}

void run_reconfigure(struct run *run, const struct wal_voters *voters)
{
    ck_assert(run_fits(run, WAL_CONFIG_BOUND));
    uint64_t idx = wal_append_config(run->wal, voters);
    run->is_tx[idx] = false;
    run->verified[idx] = 0;
    ck_assert_uint_eq(wal_config_idx(run->wal), idx);
    ck_assert(run_voters_equal(wal_voters(run->wal), voters));
}

bool run_voters_equal(const struct wal_voters *a, const struct wal_voters *b)
{
    return a->count == b->count && memcmp(a->list, b->list, a->count * sizeof a->list[0]) == 0;
}

struct run_state run_get_state(const struct run *run)
{
    const struct wal *wal = run->wal;
    struct run_state state = {0};
    state.term = wal_term(wal);
    state.voted_for = wal_voted_for(wal);
    state.last_idx = wal_last_idx(wal);
    state.last_term = wal_last_term(wal);
    state.last_chain = wal_last_chain(wal);
    state.config_idx = wal_config_idx(wal);
    for (uint32_t slot = 0; slot < RUN_SLOTS; slot++) {
        state.next_seq[slot] =
            wal_next_seq(wal, slot * run->config.bucket_count + run->config.bucket);
        state.events += state.next_seq[slot];
    }
    state.voters = *wal_voters(wal);
    state.commit_idx = wal_commit_idx(wal);
    return state;
}

void run_expect_state(const struct run *run, const struct run_state *wanted)
{
    struct run_state got = run_get_state(run);
    ck_assert_uint_eq(got.term, wanted->term);
    ck_assert_uint_eq(got.voted_for, wanted->voted_for);
    ck_assert_uint_eq(got.last_idx, wanted->last_idx);
    ck_assert_uint_eq(got.last_term, wanted->last_term);
    ck_assert_uint_eq(got.last_chain, wanted->last_chain);
    ck_assert_uint_eq(got.config_idx, wanted->config_idx);
    ck_assert_uint_le(got.commit_idx, wanted->commit_idx);
    ck_assert_int_eq(memcmp(got.next_seq, wanted->next_seq, sizeof got.next_seq), 0);
    ck_assert(run_voters_equal(&got.voters, &wanted->voters));
    /* What isn't committed is known entry by entry. */
    ck_assert_ptr_null(wal_tail_entry(run->wal, got.commit_idx));
    ck_assert_ptr_null(wal_tail_entry(run->wal, got.last_idx + 1));
    for (uint64_t idx = got.commit_idx; idx <= got.last_idx; idx++) {
        uint64_t term = 0, chain = 0;
        ck_assert(wal_point(run->wal, idx, &term, &chain));
        const struct tail_entry *entry = wal_tail_entry(run->wal, idx);
        ck_assert(entry == NULL
                      ? idx == got.commit_idx
                      : entry->idx == idx && entry->term == term && entry->chain == chain &&
                            (entry->kind == ENTRY_TX) == run->is_tx[idx] &&
                            (!run->is_tx[idx] || entry->first_seq == run->first_seq[idx]));
        if (idx == got.last_idx)
            ck_assert(term == got.last_term && chain == got.last_chain);
    }
}

bool run_append(struct run *run)
{
    struct run_tx tx;
    uint64_t idx = wal_last_idx(run->wal) + 1;
    ck_assert_uint_lt(idx, RUN_ENTRIES_MAX);
    run_tx_make(run, idx, &tx);
    bool ok = run_fits(run, wal_entry_bound(tx.events, tx.count));
    if (ok) {
        uint64_t first_seq = wal_next_seq(run->wal, tx.partition);
        uint64_t got = wal_append_tx(run->wal, tx.partition, &tx.partition_key, &tx.transaction_id,
                                     tx.events, tx.count, run->positions[idx]);
        ck_assert_uint_eq(got, idx);
        ck_assert_uint_eq(wal_next_seq(run->wal, tx.partition), first_seq + tx.count);
        run->is_tx[idx] = true;
        run->verified[idx] = 0;
        run->first_seq[idx] = first_seq;
        run->segments[idx] = wal_segment(run->wal);
    }
    buf_release(&tx.bytes);
    return ok;
}

void run_start_flush(struct run *run)
{
    uint64_t batch = wal_open_batch(run->wal);
    ck_assert_uint_lt(batch, RUN_BATCHES_MAX);
    if (wal_pending(run->wal) && !wal_flushing(run->wal))
        run->states[batch] = run_get_state(run);
    wal_flush(run->wal);
}

void run_flush(struct run *run)
{
    run_start_flush(run);
    mem_disk_settle(run->mem);
}

void run_kill(struct run *run)
{
    wal_free(run->wal);
    run->wal = NULL;
    mem_disk_kill(run->mem);
}

void run_move(struct run *run, struct mem_disk *mem)
{
    run_kill(run);
    mem_disk_free(run->mem);
    run->mem = mem;
}

/* --- the whole log --- */

static void check_problem(void *ctx, enum wal_problem kind, uint64_t offset, const char *what)
{
    (void)ctx;
    fprintf(stderr, "problem %d at %llu: %s\n", kind, (unsigned long long)offset, what);
}

uint64_t run_check(struct run *run)
{
    struct wal_scan scan = {
        .ctx = run, .on_entry = run_on_entry, .on_cut = run_on_cut, .on_problem = check_problem};
    struct format_salt salt = {.cluster_id = run->config.cluster_id, .bucket = run->config.bucket};
    struct wal_scan_result result = {0};
    uint64_t chain = 0, last_idx = 0, events = 0;
    run->seen = run->seen_last = run->seen_wrong = 0;
    for (uint64_t segment = 0;; segment++) {
        enum err err = wal_scan_segment(&run->mem->disk, segment, &salt, &scan, &result);
        if (err == ERR_NOTFOUND && segment > 0)
            break;
        ck_assert_int_eq(err, ERR_OK);
        ck_assert_uint_eq(result.problems, 0);
        ck_assert_uint_eq(result.checkpoint.last_idx, last_idx);
        ck_assert_uint_eq(result.checkpoint.last_chain, chain);
        ck_assert_uint_eq(result.checkpoint.events, events);
        last_idx = result.last_idx;
        chain = result.last_chain;
        events += result.events;
    }
    ck_assert_uint_eq(run->seen_wrong, 0);
    ck_assert_uint_eq(run->seen, last_idx);
    return last_idx;
}

int run_tests(const char *name, const TTest *const *tests, size_t count)
{
    Suite *suite = suite_create(name);
    TCase *all = tcase_create(name);
    tcase_set_timeout(all, 60);
    for (size_t i = 0; i < count; i++)
        tcase_add_test(all, tests[i]);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
