/* Damaged segments that another one follows: each kind of damage, alone and on two replicas at
 * once, in bad company, with crashes and full disks on the way. */
#include <stdlib.h>

#include "tests/unit/bucketd/repair_world.h"

#define BATCHES_MAX 200u

static struct world *world_of_segments(uint64_t seed, bool cuts)
{
    struct world *world = world_new(seed, 9000, 90);
    world_append(world, 90, cuts);
    world_settle(world);
    for (uint32_t i = 0; i < NODES; i++) {
        ck_assert_uint_ge(wal_segment(world->nodes[i].wal), 3);
        check_log(&world->nodes[i], world->last, UINT64_MAX);
    }
    return world;
}

/* Notes the damage and waits for the repair; all must be well then. */
static void expect_repair(struct node *node, uint64_t segment)
{
    struct world *world = node->world;
    uint64_t replaced = node->replaced;
    ck_assert_uint_gt(scan_problems(node, segment), 0);
    repairer_note(node->repairer, segment);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 1);
    world_run(world, 100 * TICK_NS);
    ck_assert(!node->fatal);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 0);
    ck_assert_uint_eq(node->replaced, replaced + 1);
    ck_assert_uint_eq(node->last_replaced, segment);
    check_log(node, world->last, UINT64_MAX);
    check_index(node, segment, node->index);
    ck_assert_ptr_null(mem_disk_bytes(node->mem, "repair/data.evts"));
}

START_TEST(each_batch_of_each_segment)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct world *world = world_of_segments(seed, seed > 2);
        struct node *node = &world->nodes[1 + seed % 2];
        for (uint64_t segment = 0; segment < wal_segment(node->wal); segment++) {
            struct buf *file = data_of(node, segment), original = {0};
            buf_append_span(&original, buf_span(file));
            struct batch_at batches[BATCHES_MAX];
            size_t count = batches_of(node, segment, batches, BATCHES_MAX);
            for (size_t i = 0; i < count; i++) {
                uint64_t places[] = {20, sizeof(struct batch_mark) + 20, batches[i].bytes - 20};
                for (size_t p = 0; p < 3; p++) {
                    file = data_of(node, segment);
                    buf_clear(file, SIZE_MAX);
                    buf_append_span(file, buf_span(&original));
                    file->ptr[batches[i].offset + places[p]] ^= 4;
                    expect_repair(node, segment);
                }
            }
            buf_release(&original);
        }
        world_free(world);
    }
}
END_TEST

/* What is repaired can be damaged and repaired again, and so on, from whichever replica. */
START_TEST(front_end_and_everything)
{
    struct world *world = world_of_segments(3, true);
    for (uint32_t n = 0; n < NODES; n++) {
        struct node *node = &world->nodes[n];
        for (uint64_t segment = 0; segment < wal_segment(node->wal); segment++) {
            struct buf *file = data_of(node, segment);
            file->ptr[50] ^= 1; /* header */
            expect_repair(node, segment);
            file = data_of(node, segment);
            file->ptr[2 * FORMAT_BLOCK + 50] ^= 1; /* a copy of the checkpoint */
            expect_repair(node, segment);
            file = data_of(node, segment);
            file->ptr[FORMAT_BLOCK + 50] ^= 1; /* both, and the header */
            file->ptr[2 * FORMAT_BLOCK + 50] ^= 1;
            file->ptr[50] ^= 1;
            expect_repair(node, segment);
            file = data_of(node, segment);
            file->ptr[file->len - 20] ^= 1; /* footer */
            expect_repair(node, segment);
            file = data_of(node, segment);
            memset(file->ptr, 0, file->len);
            expect_repair(node, segment);
            char path[48];
            wal_data_path(segment, false, path);
            mem_disk_resize(node->mem, path, 5000);
            expect_repair(node, segment);
        }
        node_kill(node);
        node_start(node);
        ck_assert(!node->recovery.damaged);
        ck_assert_uint_eq(wal_last_idx(node->wal), world->last);
    }
    world_free(world);
}
END_TEST

/* Two replicas are damaged, at different places, and the third is down: each has what the other one
 * lacks. */
START_TEST(two_damaged_replicas_help_each_other)
{
    uint64_t tries = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct world *world = world_of_segments(seed, seed % 2 == 0);
        struct node *a = &world->nodes[1], *b = &world->nodes[2];
        node_kill(&world->nodes[0]);
        struct batch_at of_a[BATCHES_MAX], of_b[BATCHES_MAX];
        size_t count_a = batches_of(a, 1, of_a, BATCHES_MAX);
        size_t count_b = batches_of(b, 1, of_b, BATCHES_MAX);
        size_t i = world_pick(world, count_a), k = world_pick(world, count_b);
        bool apart = of_a[i].first_idx == 0 || of_b[k].first_idx == 0 ||
                     of_a[i].last_idx < of_b[k].first_idx || of_b[k].last_idx < of_a[i].first_idx;
        if (apart) {
            tries++;
            data_of(a, 1)->ptr[of_a[i].offset + of_a[i].bytes / 2] ^= 1;
            data_of(b, 1)->ptr[of_b[k].offset + of_b[k].bytes / 2] ^= 1;
            repairer_note(a->repairer, 1);
            repairer_note(b->repairer, 1);
            world_run(world, 300 * TICK_NS);
            ck_assert_uint_eq(repairer_waiting(a->repairer), 0);
            ck_assert_uint_eq(repairer_waiting(b->repairer), 0);
            check_log(a, world->last, UINT64_MAX);
            check_log(b, world->last, UINT64_MAX);
        }
        world_free(world);
    }
    ck_assert_uint_gt(tries, 5);
}
END_TEST

/* The first entry behind the other's hole has a predecessor that the other can't tell. */
START_TEST(two_holes_side_by_side)
{
    uint64_t tries = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct world *world = world_of_segments(seed, false);
        struct node *a = &world->nodes[1], *b = &world->nodes[2];
        node_kill(&world->nodes[0]);
        struct batch_at of_a[BATCHES_MAX], of_b[BATCHES_MAX];
        size_t count_a = batches_of(a, 1, of_a, BATCHES_MAX);
        size_t count_b = batches_of(b, 1, of_b, BATCHES_MAX);
        bool found = false;
        for (size_t i = 0; i < count_a && !found; i++) {
            for (size_t k = 0; k < count_b && !found; k++) {
                found = of_a[i].first_idx != 0 && of_b[k].first_idx == of_a[i].last_idx + 1;
                if (found) {
                    data_of(a, 1)->ptr[of_a[i].offset + 20] ^= 1;
                    data_of(b, 1)->ptr[of_b[k].offset + of_b[k].bytes / 2] ^= 1;
                }
            }
        }
        if (found) {
            /* It must become whole by the other alone, damaged as that still is. */
            repairer_note(b->repairer, 1);
            world_run(world, 100 * TICK_NS);
            ck_assert_uint_eq(repairer_waiting(b->repairer), 0);
            check_log(b, world->last, UINT64_MAX);
        }
        tries += found;
        world_free(world);
    }
    ck_assert_uint_gt(tries, 2);
}
END_TEST

/* Its entries are all whole, and hang together, but they aren't what was committed. True: it ends
 * with the same idx. */
static bool try_another_log(uint64_t seed)
{
    struct world *world = world_new(seed, 9000, 90), *other = world_new(seed, 9000, 90);
    struct node *node = &world->nodes[1], *stray = &other->nodes[1];
    world_append(world, 40, false);
    world_append(other, 40, false);
    world_flush(node);
    world_flush(stray);
    uint64_t segment = wal_segment(stray->wal);
    ck_assert_uint_eq(segment, wal_segment(node->wal));
    /* The same transactions, but in a term of its own. */
    other->nodes[LEADER].leads = false;
    stray->leads = true;
    wal_append_vote(stray->wal, 2, 2);
    while (wal_durable(stray->wal).segment == segment) {
        world_append_to(other, 0);
        world_flush(stray);
        wal_commit(stray->wal, wal_durable_idx(stray->wal));
    }
    while (wal_durable(node->wal).segment == segment) {
        world_append_to(world, 7);
        world_flush(node);
        wal_commit(node->wal, wal_durable_idx(node->wal));
    }
    world_append(world, 30, false);
    world_settle(world);
    struct segment_footer ours, theirs;
    struct buf *file = data_of(node, segment);
    const struct buf *from = data_of(stray, segment);
    memcpy(&ours, file->ptr + file->len - sizeof ours, sizeof ours);
    memcpy(&theirs, from->ptr + from->len - sizeof theirs, sizeof theirs);
    buf_clear(file, SIZE_MAX);
    buf_append_span(file, buf_span(from));
    ck_assert_uint_eq(scan_problems(node, segment), 0);
    repairer_note(node->repairer, segment);
    world_run(world, 100 * TICK_NS);
    ck_assert_uint_eq(node->replaced, 1);
    check_log(node, world->last, UINT64_MAX);
    check_index(node, segment, node->index);
    world_free(world);
    world_free(other);
    return ours.last_idx == theirs.last_idx;
}

START_TEST(a_segment_of_another_log)
{
    uint64_t same_end = 0;
    for (uint64_t seed = 1; seed <= 10; seed++)
        same_end += try_another_log(seed);
    ck_assert_uint_gt(same_end, 0);
}
END_TEST

START_TEST(several_segments_one_after_the_other)
{
    struct world *world = world_of_segments(5, false);
    struct node *node = &world->nodes[2];
    uint64_t newest = wal_segment(node->wal);
    for (uint64_t segment = newest; segment-- > 0;) {
        damage(node, segment);
        repairer_note(node->repairer, segment);
        repairer_note(node->repairer, segment);
    }
    repairer_note(node->repairer, newest); /* not while it is the newest */
    node->refuse_replace = 3;
    world_run(world, 500 * TICK_NS);
    ck_assert_uint_eq(node->replaced, newest);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 1);
    check_log(node, world->last, UINT64_MAX);
    world_free(world);
}
END_TEST

START_TEST(a_whole_segment_is_left_alone)
{
    struct world *world = world_of_segments(6, true);
    struct node *node = &world->nodes[1];
    uint64_t hash = mem_disk_hash(node->mem, "data.evts");
    for (int i = 0; i < 3; i++) {
        repairer_note(node->repairer, 1);
        world_run(world, 3 * TICK_NS);
        ck_assert_uint_eq(repairer_waiting(node->repairer), 0);
    }
    ck_assert_uint_eq(node->replaced, 0);
    ck_assert_uint_eq(mem_disk_hash(node->mem, "data.evts"), hash);
    world_free(world);
}
END_TEST

/* --- others that don't help --- */

static bool drop_from_0(struct world *world, uint32_t from, uint32_t to, struct msg *msg)
{
    (void)world;
    (void)to;
    return msg->tag == TAG_chunk && from == 0;
}

static bool drop_all_chunks(struct world *world, uint32_t from, uint32_t to, struct msg *msg)
{
    (void)world;
    (void)from;
    (void)to;
    return msg->tag == TAG_chunk;
}

START_TEST(who_does_not_answer_is_passed_over)
{
    struct world *world = world_of_segments(7, false);
    struct node *node = &world->nodes[1];
    world->drop = drop_from_0;
    struct buf *file = data_of(node, 1);
    memset(file->ptr, 0, file->len);
    expect_repair(node, 1);
    world->drop = drop_all_chunks;
    damage(node, 2);
    repairer_note(node->repairer, 2);
    world_run(world, 100 * TICK_NS);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 1);
    world->drop = NULL;
    world_run(world, 100 * TICK_NS);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 0);
    check_log(node, world->last, UINT64_MAX);
    world_free(world);
}
END_TEST

/* What the wrong answers do to the first chunks from node 0. */
static bool garble(struct world *world, uint32_t from, uint32_t to, struct msg *msg)
{
    (void)to;
    struct msg_chunk *chunk = &msg->u.chunk;
    if (msg->tag != TAG_chunk || from != 0)
        return false;
    uint8_t *bytes = (uint8_t *)(uintptr_t)chunk->entries.ptr;
    size_t len = chunk->entries.len;
    switch (world_pick(world, 9)) {
    case 0:
        chunk->id--;
        break;
    case 1:
        chunk->from_idx++;
        break;
    case 2:
        chunk->prev_chain ^= 5;
        break;
    case 3:
        chunk->raw_bytes += 8;
        break;
    case 4:
        chunk->entries.len -= min_u64(len, 8);
        break;
    case 5:
        chunk->count = 0;
        break;
    case 6:
        chunk->raw_bytes = UINT64_MAX;
        break;
    default:
        for (int i = 0; i < 5 && len > 0; i++)
            bytes[world_pick(world, len)] ^= (uint8_t)(1 + world_pick(world, 255));
    }
    return false;
}

START_TEST(wrong_answers_are_not_believed)
{
    for (uint64_t seed = 1; seed <= 25; seed++) {
        struct world *world = world_of_segments(seed, true);
        struct node *node = &world->nodes[1];
        world->drop = garble;
        uint64_t segment = seed % wal_segment(node->wal);
        struct buf *file = data_of(node, segment);
        struct batch_at batches[BATCHES_MAX];
        size_t count = batches_of(node, segment, batches, BATCHES_MAX);
        uint64_t from = batches[count / 3].offset + 8, to = batches[2 * count / 3].offset + 200;
        memset(file->ptr + from, 0, to - from);
        ck_assert_uint_gt(scan_problems(node, segment), 0);
        repairer_note(node->repairer, segment);
        world_run(world, 300 * TICK_NS);
        ck_assert_uint_eq(repairer_waiting(node->repairer), 0);
        check_log(node, world->last, UINT64_MAX);
        check_index(node, segment, node->index);
        world_free(world);
    }
}
END_TEST

/* --- disks --- */

START_TEST(a_full_disk_is_waited_for)
{
    struct world *world = world_of_segments(8, false);
    struct node *node = &world->nodes[1];
    damage(node, 1);
    node->mem->capacity = 1; /* nothing more */
    repairer_note(node->repairer, 1);
    world_run(world, 50 * TICK_NS);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 1);
    ck_assert_ptr_null(mem_disk_bytes(node->mem, "repair/data.evts"));
    ck_assert(!node->fatal);
    node->mem->capacity = 0;
    world_run(world, 50 * TICK_NS);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 0);
    check_log(node, world->last, UINT64_MAX);
    world_free(world);
}
END_TEST

/* A power failure at each operation of the repair leaves the old file or the new one, whole, and no
 * index files beside the wrong one; the next repair ends well. */
START_TEST(a_crash_at_any_operation)
{
    bool ended = false;
    uint64_t old_ones = 0, new_ones = 0;
    for (uint64_t at = 1; !ended; at++) {
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct world *world = world_of_segments(9, true);
            struct node *node = &world->nodes[1];
            struct disk *disk = &node->mem->disk;
            for (unsigned i = 0; i < INDEX_FILES; i++) {
                char path[64];
                struct file *index_file;
                snprintf(path, sizeof path, "segments/0000000001/%s", index_file_names[i]);
                ck_assert_int_eq(disk->ops->open(disk, path, OPEN_CREATE, &index_file), ERR_OK);
                disk->ops->close(disk, index_file);
            }
            ck_assert_int_eq(disk->ops->sync_dir(disk, "segments/0000000001"), ERR_OK);
            struct buf old = {0};
            damage(node, 1);
            buf_append_span(&old, buf_span(data_of(node, 1)));
            node->mem->ops = 0;
            node->mem->crash_at = at;
            repairer_note(node->repairer, 1);
            world_run(world, 20 * TICK_NS);
            ended = !node->mem->crashed;
            ck_assert(ended || node->replaced == 0);
            struct mem_disk *after = mem_disk_crash(node->mem, seed == 3 ? at * 1000 + 7 : seed);
            node_kill(node);
            mem_disk_free(node->mem);
            node->mem = after;
            node_start(node);
            bool is_old = span_equal(buf_span(data_of(node, 1)), buf_span(&old));
            buf_release(&old);
            old_ones += is_old;
            new_ones += !is_old;
            ck_assert(!node->recovery.damaged);
            ck_assert_ptr_null(mem_disk_bytes(node->mem, "repair/data.evts"));
            ck_assert_uint_eq(scan_problems(node, 1) > 0, is_old);
            if (!is_old)
                ck_assert_ptr_null(mem_disk_bytes(node->mem, "segments/0000000001/index.eidx"));
            node->replaced = 0;
            if (is_old)
                expect_repair(node, 1);
            check_log(node, world->last, UINT64_MAX);
            world_free(world);
        }
    }
    ck_assert_uint_gt(old_ones, 20);
    ck_assert_uint_gt(new_ones, 4);
}
END_TEST

START_TEST(the_newest_is_repaired_by_a_start)
{
    struct world *world = world_of_segments(7, false);
    struct node *node = &world->nodes[1];
    repairer_note(node->repairer, wal_segment(node->wal));
    world_run(world, 500 * TICK_NS);
    ck_assert(!node->fatal); /* it has only just been started */
    for (uint32_t i = 0; i < NODES; i++)
        world->nodes[i].leads = i == node->number;
    world_run(world, 6000 * TICK_NS);
    ck_assert(!node->fatal); /* who leads is needed */
    ck_assert_uint_gt(node->gave_way, 0);
    for (uint32_t i = 0; i < NODES; i++)
        world->nodes[i].leads = i == 0;
    world_run(world, 100 * TICK_NS);
    ck_assert(node->fatal);
    ck_assert_int_eq(node->fatal_err, ERR_OK);
    world_free(world);
}
END_TEST

START_TEST(a_beginning_that_the_damaged_one_before_tells)
{
    struct world *world = world_of_segments(8, false);
    struct node *node = &world->nodes[1];
    damage(node, 0);
    struct buf *file = data_of(node, 1);
    file->ptr[FORMAT_BLOCK + 50] ^= 1;
    file->ptr[2 * FORMAT_BLOCK + 50] ^= 1;
    repairer_note(node->repairer, 1);
    world_run(world, 100 * TICK_NS);
    ck_assert(!node->fatal);
    ck_assert_uint_eq(node->replaced, 2);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 0);
    check_log(node, world->last, UINT64_MAX);
    world_free(world);
}
END_TEST

/* Neither its footer nor the front of the next one tells where it ends. */
START_TEST(an_end_that_nothing_tells)
{
    struct world *world = world_of_segments(4, false);
    struct node *node = &world->nodes[1];
    struct buf *file = data_of(node, 0);
    file->ptr[file->len - 20] ^= 1;
    damage(node, 0);
    file = data_of(node, 1);
    file->ptr[FORMAT_BLOCK + 50] ^= 1;
    file->ptr[2 * FORMAT_BLOCK + 50] ^= 1;
    world->nodes[0].leads = false;
    repairer_note(node->repairer, 0);
    world_run(world, 100 * TICK_NS);
    ck_assert(!node->fatal); /* as long as nobody else is known to have it */
    ck_assert_uint_eq(repairer_waiting(node->repairer), 1);
    world_new_term(world, 0);
    world_run(world, 100 * TICK_NS);
    ck_assert(node->gave_up);
    world_free(world);
}
END_TEST

START_TEST(any_failing_operation)
{
    bool ended = false;
    for (uint64_t at = 1; !ended; at++) {
        struct world *world = world_of_segments(9, true);
        struct node *node = &world->nodes[1];
        damage(node, 1);
        node->mem->ops = 0;
        node->mem->fail_at = at;
        node->mem->fail_with = ERR_IO;
        node->mem->fail_drops = true;
        repairer_note(node->repairer, 1);
        world_run(world, 100 * TICK_NS);
        ended = node->mem->ops < at;
        ck_assert(node->fatal || repairer_waiting(node->repairer) == 0);
        if (node->fatal) {
            node_kill(node);
            node_start(node);
            if (scan_problems(node, 1) > 0)
                expect_repair(node, 1);
        }
        check_log(node, world->last, UINT64_MAX);
        world_free(world);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("repair");
    TCase *tests = tcase_create("sealed");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, each_batch_of_each_segment);
    tcase_add_test(tests, front_end_and_everything);
    tcase_add_test(tests, two_damaged_replicas_help_each_other);
    tcase_add_test(tests, two_holes_side_by_side);
    tcase_add_test(tests, a_segment_of_another_log);
    tcase_add_test(tests, several_segments_one_after_the_other);
    tcase_add_test(tests, a_whole_segment_is_left_alone);
    tcase_add_test(tests, who_does_not_answer_is_passed_over);
    tcase_add_test(tests, wrong_answers_are_not_believed);
    tcase_add_test(tests, a_full_disk_is_waited_for);
    tcase_add_test(tests, a_crash_at_any_operation);
    tcase_add_test(tests, the_newest_is_repaired_by_a_start);
    tcase_add_test(tests, a_beginning_that_the_damaged_one_before_tells);
    tcase_add_test(tests, an_end_that_nothing_tells);
    tcase_add_test(tests, any_failing_operation);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
