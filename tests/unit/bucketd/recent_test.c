/* The newest entries in memory: everything against a naive model. */
#include "bucketd/core/recent.h"

#include <check.h>
#include <stdlib.h>

#define BYTES_MAX   (256u << 10)
#define ENTRIES_MAX 40000u

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* What the entry of this idx holds, in the `version`-th log that has one. */
static size_t entry_len(uint64_t idx, uint32_t version)
{
    uint64_t state = idx * 31 + version;
    uint64_t r = next_random(&state);
    return 8 * (1 + (r % 100 == 0 ? r % 9000 : r % 60));
}

static void entry_fill(uint64_t idx, uint32_t version, uint8_t *to)
{
    uint64_t state = idx * 7919 + version;
    for (size_t i = 0; i < entry_len(idx, version); i += 8) {
        uint64_t word = next_random(&state);
        memcpy(to + i, &word, 8);
    }
}

struct model {
    struct recent *recent;
    uint64_t first, last; /* 0: empty */
    size_t bytes;
    uint32_t versions[ENTRIES_MAX];
    uint32_t version;
    uint8_t scratch[9000 * 8 + 8];
};

static void push(struct model *model, uint64_t idx)
{
    ck_assert_uint_lt(idx, ENTRIES_MAX);
    model->versions[idx] = model->version;
    entry_fill(idx, model->version, model->scratch);
    size_t len = entry_len(idx, model->version);
    recent_push(model->recent, idx, model->version, idx ^ model->version,
                span_of(model->scratch, len));
    if (model->first == 0)
        model->first = idx;
    model->last = idx;
    model->bytes += len;
}

static void drop(struct model *model, bool newest)
{
    uint64_t idx = newest ? model->last-- : model->first++;
    model->bytes -= entry_len(idx, model->versions[idx]);
    if (model->first > model->last)
        model->first = model->last = 0;
}

static void check_entry(struct model *model, uint64_t idx)
{
    struct recent_entry entry;
    uint32_t version = model->versions[idx];
    ck_assert(recent_get(model->recent, idx, &entry));
    ck_assert_uint_eq(entry.idx, idx);
    ck_assert_uint_eq(entry.term, version);
    ck_assert_uint_eq(entry.chain, idx ^ version);
    entry_fill(idx, version, model->scratch);
    ck_assert(span_equal(entry.bytes, span_of(model->scratch, entry_len(idx, version))));
    ck_assert_uint_eq((uintptr_t)entry.bytes.ptr % 8, 0);
}

static void check_span(struct model *model, uint64_t idx, uint64_t last_idx, size_t bytes_max)
{
    struct span bytes;
    uint64_t count = recent_span(model->recent, idx, last_idx, bytes_max, &bytes);
    ck_assert_uint_gt(count, 0);
    ck_assert(idx + count - 1 <= model->last && (count == 1 || idx + count - 1 <= last_idx));
    size_t at = 0;
    for (uint64_t i = idx; i < idx + count; i++) {
        size_t len = entry_len(i, model->versions[i]);
        entry_fill(i, model->versions[i], model->scratch);
        ck_assert(len <= bytes.len - at && memcmp(bytes.ptr + at, model->scratch, len) == 0);
        at += len;
    }
    ck_assert_uint_eq(at, bytes.len);
    ck_assert(count == 1 || bytes.len <= bytes_max);
    uint64_t next = idx + count;
    if (next <= model->last && next <= last_idx)
        ck_assert_uint_gt(at + entry_len(next, model->versions[next]), bytes_max);
}

static void check_all(struct model *model, uint64_t *state)
{
    struct recent_entry entry;
    struct span bytes;
    ck_assert_uint_eq(recent_first(model->recent), model->first);
    ck_assert_uint_eq(recent_last(model->recent), model->last);
    ck_assert_uint_eq(recent_bytes(model->recent), model->bytes);
    uint64_t outside[] = {model->first - 1, model->last + 1};
    for (size_t i = 0; i < 2; i++) {
        ck_assert(!recent_get(model->recent, outside[i], &entry));
        ck_assert_uint_eq(recent_span(model->recent, outside[i], UINT64_MAX, 100, &bytes), 0);
    }
    if (model->first == 0)
        return;
    check_entry(model, model->first);
    check_entry(model, model->last);
    uint64_t held = model->last - model->first + 1;
    for (int i = 0; i < 3; i++)
        check_entry(model, model->first + next_random(state) % held);
    uint64_t idx = model->first + next_random(state) % held;
    check_span(model, idx, idx + next_random(state) % 50, next_random(state) % 5000);
    ck_assert_uint_eq(recent_span(model->recent, idx, idx - 1, 100, &bytes), 0);
}

static void trim(struct model *model, uint64_t keep_from)
{
    recent_trim(model->recent, keep_from);
    while (model->first != 0 && model->first < keep_from && model->bytes > BYTES_MAX)
        drop(model, false);
}

static void random_step(struct model *model, uint64_t *state)
{
    uint64_t r = next_random(state), held = model->last - model->first;
    uint64_t next = model->first == 0 ? 1 + r / 64 % 500 : model->last + 1;
    switch (r % 64) {
    case 0: /* a cut somewhere, or of nothing, or of all */
        if (model->first == 0)
            break;
        next = model->first + r / 64 % (held + 3) - 1;
        model->version++;
        recent_cut(model->recent, next);
        while (model->first != 0 && model->last >= next)
            drop(model, true);
        break;
    case 1: /* many at once, none of which may be forgotten yet */
        for (uint64_t i = 0; i < 1000; i++)
            push(model, next + i);
        break;
    case 2:
        if (r / 64 % 16 != 0)
            break;
        recent_reset(model->recent);
        model->first = model->last = model->bytes = 0;
        model->version++;
        break;
    case 3:
        trim(model, UINT64_MAX);
        break;
    default:
        push(model, next);
        if (r / 64 % 4 == 0)
            trim(model, model->last - r / 256 % 200 % model->last);
    }
}

START_TEST(as_the_model)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct model *model = calloc(1, sizeof *model);
        ck_assert_ptr_nonnull(model);
        model->recent = recent_new(BYTES_MAX);
        uint64_t state = seed;
        for (int i = 0; i < 3000 && model->last + 1001 < ENTRIES_MAX; i++) {
            random_step(model, &state);
            check_all(model, &state);
        }
        recent_free(model->recent);
        free(model);
    }
}
END_TEST

START_TEST(keeps_what_it_must)
{
    struct recent *recent = recent_new(100);
    uint8_t bytes[80] = {0};
    for (uint64_t idx = 5; idx < 25; idx++)
        recent_push(recent, idx, 1, 0, span_of(bytes, sizeof bytes));
    recent_trim(recent, 10);
    ck_assert_uint_eq(recent_first(recent), 10);
    recent_trim(recent, 10);
    ck_assert_uint_eq(recent_first(recent), 10);
    recent_trim(recent, 25); /* all may go, but so much needn't */
    ck_assert_uint_eq(recent_first(recent), 24);
    recent_cut(recent, 25);
    ck_assert_uint_eq(recent_last(recent), 24);
    recent_cut(recent, 3);
    ck_assert_uint_eq(recent_last(recent), 0);
    recent_push(recent, 3, 1, 0, span_of(bytes, sizeof bytes));
    ck_assert_uint_eq(recent_first(recent), 3);
    recent_free(recent);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recent");
    TCase *tests = tcase_create("recent");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, as_the_model);
    tcase_add_test(tests, keeps_what_it_must);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
