/* See router_world.h. */
#include "tests/unit/netd/router_world.h"

#include <check.h>
#include <stdio.h>

#include "common/assert.h"
#include "common/placement.h"

struct router_world world;

static bool on_send(void *ctx, uint32_t node, uint32_t bucket, struct span bytes)
{
    (void)ctx;
    ck_assert_uint_eq(bucket, 0);
    if (world.refuse_sending)
        return false;
    ck_assert_uint_lt(world.kept_count, WORLD_SENT_MAX);
    struct buf *copy = &world.kept[world.kept_count++];
    *copy = (struct buf){0};
    buf_append_span(copy, bytes);
    struct span left = buf_span(copy);
    while (left.len > 0) {
        ck_assert_uint_lt(world.sent_count, WORLD_SENT_MAX);
        struct sent *to = &world.sent[world.sent_count++];
        to->node = node;
        ck_assert_int_eq(msg_unpack(&left, &to->msg), ERR_OK);
    }
    return true;
}

static void on_bucket_up(void *ctx, uint32_t bucket)
{
    (void)ctx, (void)bucket;
    world.ups++;
}

static void on_bucket_lost(void *ctx, uint32_t bucket)
{
    (void)ctx, (void)bucket;
    world.losts++;
}

static void on_tail(void *ctx, const struct msg_tail *tail)
{
    (void)ctx, (void)tail;
    world.tails++;
}

static void on_link_state(void *ctx, uint64_t link, bool up)
{
    (void)ctx, (void)link, (void)up;
}

void world_setup(void)
{
    world_setup_young(3);
    world.now_ms += 3000;
    router_flush(world.router, world.now_ms);
}

void world_setup_young(unsigned up)
{
    world = (struct router_world){.now_ms = 1000};
    config_init(&world.config);
    world.config.bucket.count = 1;
    world.config.partition.count = 8;
    world.config.node.count = WORLD_NODES;
    world.config.replication.factor = 3;
    placement_replicas(0, WORLD_NODES, 3, world.replicas);
    while (placement_holds(0, WORLD_NODES, 3, world.config.node.index))
        world.config.node.index++;
    struct router_callbacks callbacks = {.on_bucket_up = on_bucket_up,
                                         .on_bucket_lost = on_bucket_lost,
                                         .send = on_send,
                                         .on_tail = on_tail,
                                         .on_link_state = on_link_state};
    world.router = router_new(NULL, &world.config, &world.log, 7, &callbacks);
    router_flush(world.router, world.now_ms);
    for (unsigned i = 0; i < up; i++)
        router_node_state(world.router, world.replicas[i], true);
}

void world_teardown(void)
{
    router_free(world.router);
    world_forget();
    config_release(&world.config);
}

void world_forget(void)
{
    for (unsigned i = 0; i < world.kept_count; i++)
        buf_release(&world.kept[i]);
    world.sent_count = world.read_count = world.kept_count = 0;
}

void world_flush(void)
{
    router_flush(world.router, world.now_ms);
}

void world_pass(uint64_t ms)
{
    world.now_ms += ms;
    router_tick(world.router, world.now_ms);
    world_flush();
}

static void on_done(struct call *call, const struct msg *reply)
{
    struct test_call *test = (struct test_call *)call;
    test->done++;
    test->reply = *reply;
    if (reply->tag == TAG_fail_reply)
        snprintf(test->text, sizeof test->text, "%.*s", (int)reply->u.fail_reply.text.len,
                 (const char *)reply->u.fail_reply.text.ptr);
}

void world_submit(struct test_call *test, enum msg_tag tag, uint64_t partition)
{
    *test = (struct test_call){.call = {.done = on_done,
                                        .deadline_ms = world.now_ms + 30000,
                                        .bytes = 100,
                                        .msg = {.tag = tag}}};
    struct msg *msg = &test->call.msg;
    if (tag == TAG_append_req) {
        msg->u.append_req.partition = partition;
        msg->u.append_req.count = 1;
    } else if (tag == TAG_follow_req) {
        msg->u.follow_req.partition = partition;
        test->call.deadline_ms = 0;
    } else {
        msg->u.sequence_req.partition = partition;
    }
    router_submit(world.router, 0, &test->call);
}

/* The next message that left; NULL: none. */
struct sent *world_next(void)
{
    return world.read_count < world.sent_count ? &world.sent[world.read_count++] : NULL;
}

/* Whoever isn't followed any more is told so: that is one test's matter. */
struct sent *world_next_of(enum msg_tag tag)
{
    struct sent *found = world_next();
    while (found != NULL && found->msg.tag == TAG_unfollow_req)
        found = world_next();
    ck_assert_ptr_nonnull(found);
    ck_assert_str_eq(msg_name(found->msg.tag), msg_name(tag));
    return found;
}

void world_answer(uint32_t node, const struct msg *msg)
{
    struct buf bytes = {0};
    msg_pack(&bytes, msg);
    router_on_remote(world.router, node, 0, buf_span(&bytes));
    buf_release(&bytes);
}

void world_stored(const struct sent *to, uint64_t sequence)
{
    world_answer(to->node, &(struct msg){.tag = TAG_append_reply,
                                         .u.append_reply = {.req_id = to->msg.u.append_req.req_id,
                                                            .first_sequence = sequence,
                                                            .count = 1}});
}

void world_refuse(const struct sent *to, enum err err, uint64_t leader, uint64_t term)
{
    world_answer(to->node, &(struct msg){.tag = TAG_fail_reply,
                                         .u.fail_reply = {.req_id = to->msg.u.get_req.req_id,
                                                          .error = err,
                                                          .leader = leader,
                                                          .term = term}});
}

void world_followed(const struct sent *to, uint64_t watermark)
{
    world_answer(to->node,
                 &(struct msg){.tag = TAG_follow_reply,
                               .u.follow_reply = {.req_id = to->msg.u.follow_req.req_id,
                                                  .partition = to->msg.u.follow_req.partition,
                                                  .watermark = watermark}});
}

void world_number(const struct sent *to, uint64_t value)
{
    world_answer(to->node, &(struct msg){.tag = TAG_number_reply,
                                         .u.number_reply = {.req_id = to->msg.u.sequence_req.req_id,
                                                            .present = true,
                                                            .value = value}});
}

/* The replica that isn't this one, nor that one. */
uint32_t world_third(uint32_t a, uint32_t b)
{
    for (unsigned i = 0; i < 3; i++) {
        if (world.replicas[i] != a && world.replicas[i] != b)
            return world.replicas[i];
    }
    ck_abort_msg("no third one");
    return 0;
}

uint32_t world_other(uint32_t a)
{
    return world_third(a, a == world.replicas[0] ? world.replicas[1] : world.replicas[0]);
}

void ck_failed(const struct test_call *test, enum err err)
{
    ck_assert_uint_eq(test->done, 1);
    ck_assert_int_eq(test->reply.tag, TAG_fail_reply);
    ck_assert_str_eq(err_name((enum err)test->reply.u.fail_reply.error), err_name(err));
}

void ck_stored(const struct test_call *test)
{
    ck_assert_uint_eq(test->done, 1);
    ck_assert_int_eq(test->reply.tag, TAG_append_reply);
}
