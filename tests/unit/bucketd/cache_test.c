/* The block cache: prefixes, bounds, second chance, and everything against a naive model. */
#include "bucketd/core/cache.h"

#include <check.h>
#include <stdlib.h>

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The byte that stands at an offset of a segment. */
static uint8_t byte_at(uint64_t segment, uint64_t offset)
{
    uint64_t state = segment * 1000003 + offset / 8;
    return (uint8_t)(next_random(&state) >> offset % 8 * 8);
}

static uint8_t *bytes_of(uint64_t segment, uint64_t offset, size_t len)
{
    uint8_t *bytes = malloc(len + 1);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < len; i++)
        bytes[i] = byte_at(segment, offset + i);
    return bytes;
}

static void put(struct cache *cache, uint64_t segment, uint64_t block, uint32_t len)
{
    uint8_t *bytes = bytes_of(segment, block * CACHE_BLOCK_BYTES, len);
    cache_put(cache, segment, block, bytes, len);
    free(bytes);
}

static void extend(struct cache *cache, uint64_t segment, uint64_t offset, size_t len)
{
    uint8_t *bytes = bytes_of(segment, offset, len);
    cache_extend(cache, segment, offset, bytes, len);
    free(bytes);
}

/* Known bytes of a block, all of them right; 0 = a miss. */
static size_t known(struct cache *cache, uint64_t segment, uint64_t block)
{
    struct span found = cache_get(cache, segment, block, 1);
    if (found.ptr == NULL)
        return 0;
    uint8_t *expected = bytes_of(segment, block * CACHE_BLOCK_BYTES, found.len);
    ck_assert(span_equal(found, span_of(expected, found.len)));
    free(expected);
    return found.len;
}

static struct cache_stats stats_of(const struct cache *cache)
{
    struct cache_stats stats;
    cache_get_stats(cache, &stats);
    return stats;
}

START_TEST(keeps_nothing_without_room)
{
    for (uint64_t bytes_max = 0; bytes_max < CACHE_BLOCK_BYTES;
         bytes_max += CACHE_BLOCK_BYTES / 2) {
        struct cache *cache = cache_new(bytes_max, 1);
        put(cache, 1, 1, 100);
        extend(cache, 1, 0, 300000);
        cache_drop(cache, 1);
        ck_assert_uint_eq(known(cache, 1, 0), 0);
        ck_assert_uint_eq(known(cache, 1, 1), 0);
        ck_assert_uint_eq(stats_of(cache).entries, 0);
        ck_assert_uint_eq(stats_of(cache).misses, 2);
        cache_free(cache);
    }
    cache_free(NULL);
}
END_TEST

START_TEST(longer_prefix_wins)
{
    struct cache *cache = cache_new(10 * CACHE_BLOCK_BYTES, 1);
    put(cache, 3, 5, 1000);
    ck_assert_uint_eq(known(cache, 3, 5), 1000);
    put(cache, 3, 5, 500);
    ck_assert_uint_eq(known(cache, 3, 5), 1000);
    put(cache, 3, 5, CACHE_BLOCK_BYTES);
    ck_assert_uint_eq(known(cache, 3, 5), CACHE_BLOCK_BYTES);
    ck_assert_uint_eq(known(cache, 5, 3), 0);
    put(cache, 3, 6, 0);
    ck_assert_uint_eq(stats_of(cache).entries, 1);
    cache_free(cache);
}
END_TEST

START_TEST(need_decides_about_a_hit)
{
    struct cache *cache = cache_new(10 * CACHE_BLOCK_BYTES, 1);
    put(cache, 1, 0, 1000);
    ck_assert_ptr_nonnull(cache_get(cache, 1, 0, 1000).ptr);
    ck_assert_ptr_null(cache_get(cache, 1, 0, 1001).ptr);
    ck_assert_ptr_nonnull(cache_get(cache, 1, 0, 0).ptr);
    ck_assert_ptr_null(cache_get(cache, 1, 1, 0).ptr);
    ck_assert_uint_eq(stats_of(cache).hits, 2);
    ck_assert_uint_eq(stats_of(cache).misses, 2);
    cache_free(cache);
}
END_TEST

START_TEST(extend_goes_on_where_the_prefix_ends)
{
    struct cache *cache = cache_new(10 * CACHE_BLOCK_BYTES, 1);
    put(cache, 1, 0, 1000);
    extend(cache, 1, 1000, 500);
    ck_assert_uint_eq(known(cache, 1, 0), 1500);
    extend(cache, 1, 1501, 10); /* a gap */
    extend(cache, 1, 1499, 10); /* an overlap */
    ck_assert_uint_eq(known(cache, 1, 0), 1500);
    extend(cache, 1, 1500, 2 * CACHE_BLOCK_BYTES);
    ck_assert_uint_eq(known(cache, 1, 0), CACHE_BLOCK_BYTES);
    ck_assert_uint_eq(known(cache, 1, 1), CACHE_BLOCK_BYTES);
    ck_assert_uint_eq(known(cache, 1, 2), 1500);
    extend(cache, 1, 4 * CACHE_BLOCK_BYTES + 7,
           CACHE_BLOCK_BYTES); /* the unknown middle of a block, then a start */
    ck_assert_uint_eq(known(cache, 1, 4), 0);
    ck_assert_uint_eq(known(cache, 1, 5), 7);
    extend(cache, 1, 5 * CACHE_BLOCK_BYTES, 3);
    ck_assert_uint_eq(known(cache, 1, 5), 7);
    cache_free(cache);
}
END_TEST

START_TEST(what_was_hit_gets_a_second_chance)
{
    struct cache *cache = cache_new(4 * CACHE_BLOCK_BYTES, 1);
    for (uint64_t block = 0; block < 4; block++)
        put(cache, 1, block, 10);
    ck_assert_uint_eq(known(cache, 1, 0), 10);
    ck_assert_uint_eq(known(cache, 1, 2), 10);
    put(cache, 1, 4, 10); /* takes the place of 1 */
    put(cache, 1, 5, 10); /* of 3 */
    ck_assert_uint_eq(stats_of(cache).evictions, 2);
    put(cache, 1, 6, 10); /* of 0: its chance is used */
    const size_t expected[] = {0, 0, 10, 0, 10, 10, 10};
    for (uint64_t block = 0; block < 7; block++)
        ck_assert_uint_eq(known(cache, 1, block), expected[block]);
    ck_assert_uint_eq(stats_of(cache).entries, 4);
    ck_assert_uint_eq(stats_of(cache).bytes, 4 * CACHE_BLOCK_BYTES);
    ck_assert_uint_eq(stats_of(cache).bytes_max, 4 * CACHE_BLOCK_BYTES);
    cache_free(cache);
}
END_TEST

START_TEST(drop_forgets_one_segment)
{
    struct cache *cache = cache_new(8 * CACHE_BLOCK_BYTES, 1);
    for (uint64_t block = 0; block < 4; block++) {
        put(cache, 1, block, 10);
        put(cache, 2, block, 20);
    }
    cache_drop(cache, 1);
    ck_assert_uint_eq(stats_of(cache).entries, 4);
    for (uint64_t block = 0; block < 4; block++) {
        ck_assert_uint_eq(known(cache, 1, block), 0);
        ck_assert_uint_eq(known(cache, 2, block), 20);
        put(cache, 3, block, 30); /* into the freed places */
    }
    ck_assert_uint_eq(stats_of(cache).evictions, 0);
    ck_assert_uint_eq(stats_of(cache).entries, 8);
    cache_drop(cache, 2);
    cache_drop(cache, 3);
    ck_assert_uint_eq(stats_of(cache).entries, 0);
    put(cache, 4, 0, 10);
    ck_assert_uint_eq(known(cache, 4, 0), 10);
    cache_free(cache);
}
END_TEST

/* Model: how many bytes of each block were ever known. The cache may know less, never more or other
 * ones, and as long as nothing had to leave exactly as much. _i: 0 with room for all, 1 with
 * eviction. */
START_TEST(random_against_a_model)
{
    enum { SEGMENTS = 4, BLOCKS = 12, FRAMES = 7 };
    uint64_t seed = 40 + (uint64_t)_i;
    uint32_t model[SEGMENTS][BLOCKS] = {0};
    const uint64_t frames = _i == 0 ? SEGMENTS * BLOCKS : FRAMES;
    struct cache *cache = cache_new(frames * CACHE_BLOCK_BYTES + 17, seed);
    for (uint32_t step = 0; step < 2000; step++) {
        uint64_t segment = next_random(&seed) % SEGMENTS, block = next_random(&seed) % BLOCKS;
        uint32_t len = 1 + (uint32_t)(next_random(&seed) % 3000);
        uint32_t *now = &model[segment][block];
        switch (next_random(&seed) % (step % 100 == 0 ? 3 : 2)) {
        case 0:
            put(cache, segment, block, len);
            *now = len > *now ? len : *now;
            break;
        case 1:
            if (*now == CACHE_BLOCK_BYTES)
                break;
            len = len > CACHE_BLOCK_BYTES - *now ? CACHE_BLOCK_BYTES - *now : len;
            extend(cache, segment, block * CACHE_BLOCK_BYTES + *now, len);
            *now += len;
            break;
        default:
            cache_drop(cache, segment);
            memset(model[segment], 0, sizeof model[segment]);
        }
        segment = next_random(&seed) % SEGMENTS;
        block = next_random(&seed) % BLOCKS;
        size_t found = known(cache, segment, block);
        if (_i == 0)
            ck_assert_uint_eq(found, model[segment][block]);
        ck_assert_uint_le(found, model[segment][block]);
        ck_assert_uint_le(stats_of(cache).entries, frames);
    }
    ck_assert(stats_of(cache).hits > 100);
    ck_assert((stats_of(cache).evictions > 0) == (_i == 1));
    cache_free(cache);
}
END_TEST

static Suite *cache_suite(void)
{
    Suite *suite = suite_create("cache");
    TCase *tcase = tcase_create("cache");
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    tcase_add_test(tcase, keeps_nothing_without_room);
    tcase_add_test(tcase, longer_prefix_wins);
    tcase_add_test(tcase, need_decides_about_a_hit);
    tcase_add_test(tcase, extend_goes_on_where_the_prefix_ends);
    tcase_add_test(tcase, what_was_hit_gets_a_second_chance);
    tcase_add_test(tcase, drop_forgets_one_segment);
    tcase_add_loop_test(tcase, random_against_a_model, 0, 2);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(cache_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
