/* The model of a bucket for the tests of subscriptions. */
#include "tests/unit/netd/tail_model.h"

static void ops_submit(void *ctx, uint32_t partition, struct call *call);
static void ops_cancel(void *ctx, struct call *call);
static void ops_unfollow(void *ctx, uint32_t partition);
static bool ops_is_down(void *ctx, uint32_t partition);
static void ops_created(void *ctx, struct subscription *subscription, enum err err);
static struct buf *ops_push_room(void *ctx, void *owner);
static void ops_damaged(void *ctx, uint32_t partition, struct span text);

struct world *world_new(uint64_t seed)
{
    struct world *world = calloc(1, sizeof *world);
    ck_assert_ptr_nonnull(world);
    world->random = seed * 0x9e3779b97f4a7c15ull + 1;
    world->up = true;
    struct tail_ops ops = {
        .ctx = world,
        .submit = ops_submit,
        .cancel = ops_cancel,
        .unfollow = ops_unfollow,
        .partition_is_down = ops_is_down,
        .created = ops_created,
        .push_room = ops_push_room,
        .damaged = ops_damaged,
    };
    world->hubs = hubs_new(PARTITIONS, &ops);
    return world;
}

void world_free(struct world *world)
{
    ck_assert_uint_eq(hubs_subscriptions(world->hubs), 0);
    for (unsigned i = 0; i < world->letter_count; i++)
        buf_release(&world->letters[i].list);
    hubs_free(world->hubs);
    free(world->letters);
    free(world);
}

uint64_t world_random(struct world *world, uint64_t below)
{
    world->random ^= world->random << 13;
    world->random ^= world->random >> 7;
    world->random ^= world->random << 17;
    return world->random % below;
}

struct span world_stream(uint32_t stream)
{
    static const char *const names[STREAMS] = {"alpha", "beta", "gamma"};
    return span_str(names[stream]);
}

/* The key decides the partition: its hash's lowest bit is bit 46 of the id. */
struct uuid world_key(uint32_t partition)
{
    struct uuid key = {0};
    key.bytes[10] = (uint8_t)(partition << 6);
    ck_assert_uint_eq(uuid_hash(&key) % PARTITIONS, partition);
    return key;
}

static void pack(struct buf *list, struct world *world, uint32_t partition, uint64_t sequence)
{
    const struct event *event = &world->log[partition][sequence];
    rec_pack_stored_event(list, &(struct rec_stored_event){
                                    .partition_key = world_key(partition),
                                    .partition = partition,
                                    .sequence = sequence,
                                    .version = event->version,
                                    .stream = world_stream(event->stream),
                                    .name = span_str("n"),
                                    .payload = span_str("p"),
                                });
}

static struct letter *post(struct world *world)
{
    if (world->letter_count == world->letter_cap) {
        world->letter_cap = world->letter_cap * 2 + 16;
        world->letters = realloc(world->letters, world->letter_cap * sizeof *world->letters);
        ck_assert_ptr_nonnull(world->letters);
    }
    struct letter *letter = &world->letters[world->letter_count++];
    memset(letter, 0, sizeof *letter);
    return letter;
}

/* --- what the subscriptions ask of their world --- */

static void ops_submit(void *ctx, uint32_t partition, struct call *call)
{
    struct world *world = ctx;
    (void)partition;
    ck_assert_uint_lt(world->call_count, CALLS_MAX);
    world->calls[world->call_count++] =
        (struct submitted){.call = call, .ticket = ++world->tickets};
}

static void forget(struct world *world, unsigned i)
{
    memmove(&world->calls[i], &world->calls[i + 1],
            (world->call_count - i - 1) * sizeof world->calls[0]);
    world->call_count--;
}

static void ops_cancel(void *ctx, struct call *call)
{
    struct world *world = ctx;
    for (unsigned i = 0; i < world->call_count; i++)
        if (world->calls[i].call == call) {
            forget(world, i);
            return;
        }
    ck_abort_msg("cancelled a call that wasn't submitted");
}

static void ops_unfollow(void *ctx, uint32_t partition)
{
    struct world *world = ctx;
    world->followed[partition] = false;
}

static bool ops_is_down(void *ctx, uint32_t partition)
{
    struct world *world = ctx;
    ck_assert_uint_lt(partition, PARTITIONS);
    return world->down;
}

void world_activate(struct world *world, struct subscriber *subscriber)
{
    const struct subscriber *s = subscriber;
    subscriber->start_limit =
        s->stream_kind ? world->versions[s->partition][s->stream] : world->count[s->partition];
    ck_assert_uint_eq(subscriber->out.len, 0); /* no message before the answer */
    subscriber->active = true;
    subscription_activate(subscriber->subscription, &subscriber->out, 1);
}

static void ops_created(void *ctx, struct subscription *subscription, enum err err)
{
    struct subscriber *subscriber = subscription->owner;
    if (err != ERR_OK) {
        struct world *world = ctx;
        ck_assert_int_eq(err, ERR_DOWN);
        world->given_up++;
        subscription_free(subscription);
        subscriber->subscription = NULL;
        return;
    }
    ck_assert(!subscriber->active);
    world_activate(ctx, subscriber);
}

static struct buf *ops_push_room(void *ctx, void *owner)
{
    struct subscriber *subscriber = owner;
    (void)ctx;
    return subscriber->blocked ? NULL : &subscriber->out;
}

static void ops_damaged(void *ctx, uint32_t partition, struct span text)
{
    (void)ctx;
    (void)partition;
    (void)text;
    ck_abort_msg("nothing is damaged here");
}

/* --- the bucket --- */

static void learn(struct world *world, uint32_t p, uint64_t count)
{
    for (uint64_t i = world->answered_count[p]; i < count; i++) {
        world->answered_count[p]++;
        world->answered_versions[p][world->log[p][i].stream]++;
    }
}

void world_append(struct world *world)
{
    uint32_t p = (uint32_t)world_random(world, PARTITIONS);
    uint64_t first = world->count[p], count = 1 + world_random(world, 3);
    if (!world->up || first + count > EVENTS_MAX)
        return;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t stream = (uint32_t)world_random(world, STREAMS);
        world->log[p][world->count[p]++] =
            (struct event){.stream = stream, .version = world->versions[p][stream]++};
    }
    if (!world->followed[p]) {
        learn(world, p, world->count[p]);
        return;
    }
    struct letter *letter = post(world);
    letter->msg =
        (struct msg){.tag = TAG_tail, .u.tail = {.partition = p, .first = first, .count = count}};
    for (uint64_t i = 0; i < count; i++)
        pack(&letter->list, world, p, first + i);
}

static void answer_scan(struct world *world, const struct call *call, struct letter *letter)
{
    bool by_stream = call->msg.tag == TAG_scan_stream_req;
    const struct msg_scan_stream_req *s = &call->msg.u.scan_stream_req;
    const struct msg_scan_partition_req *p = &call->msg.u.scan_partition_req;
    uint32_t partition = (uint32_t)(by_stream ? s->partition : p->partition);
    uint64_t from = by_stream ? s->from : p->from, count = by_stream ? s->count : p->count,
             found = 0;
    ck_assert_uint_gt(count, 0);
    count = 1 + world_random(world, count); /* a chunk may be cut by its bytes */
    struct msg_events_reply reply = {.watermark = world->count[partition], .next = from};
    for (uint64_t sequence = 0; sequence < reply.watermark; sequence++) {
        const struct event *event = &world->log[partition][sequence];
        uint64_t position = by_stream ? event->version : sequence;
        if ((by_stream && !span_equal(s->stream, world_stream(event->stream))) || position < from)
            continue;
        if (found == count) {
            reply.more = true;
            break;
        }
        pack(&letter->list, world, partition, sequence);
        reply.next = position + 1;
        found++;
    }
    reply.count = found;
    letter->msg = (struct msg){.tag = TAG_events_reply, .u.events_reply = reply};
}

/* Answers one of the calls; follows in order, reads in any (they may come from a pool). */
void world_answer(struct world *world)
{
    if (!world->up || world->call_count == 0)
        return;
    unsigned i = (unsigned)world_random(world, world->call_count);
    struct submitted *submitted = &world->calls[i];
    if (submitted->answered)
        return;
    const struct call *call = submitted->call;
    struct letter *letter = post(world);
    letter->call = submitted->call;
    letter->ticket = submitted->ticket;
    submitted->answered = true;
    if (call->msg.tag == TAG_follow_req) {
        uint32_t p = (uint32_t)call->msg.u.follow_req.partition;
        world->followed[p] = true;
        letter->msg =
            (struct msg){.tag = TAG_follow_reply,
                         .u.follow_reply = {.partition = p, .watermark = world->count[p]}};
    } else if (call->msg.tag == TAG_version_req) {
        const struct msg_version_req *req = &call->msg.u.version_req;
        uint64_t version = 0;
        for (uint32_t s = 0; s < STREAMS; s++)
            if (span_equal(req->stream, world_stream(s)))
                version = world->versions[req->partition][s];
        letter->msg = (struct msg){.tag = TAG_number_reply,
                                   .u.number_reply = {.present = version > 0,
                                                      .value = version - (version > 0),
                                                      .watermark = world->count[req->partition]}};
    } else {
        answer_scan(world, call, letter);
        /* What was cut early may arrive late. */
        if (world->letter_count > 1 && world_random(world, 2) == 0)
            submitted->answered = true;
    }
}

void world_deliver(struct world *world)
{
    if (world->letter_count == 0)
        return;
    struct letter letter = world->letters[0];
    memmove(&world->letters[0], &world->letters[1],
            (world->letter_count - 1) * sizeof world->letters[0]);
    world->letter_count--;
    if (letter.call == NULL) {
        letter.msg.u.tail.events = buf_span(&letter.list);
        learn(world, (uint32_t)letter.msg.u.tail.partition,
              letter.msg.u.tail.first + letter.msg.u.tail.count);
        hubs_on_tail(world->hubs, &letter.msg.u.tail);
    } else {
        if (letter.msg.tag == TAG_events_reply)
            letter.msg.u.events_reply.events = buf_span(&letter.list);
        for (unsigned i = 0; i < world->call_count; i++)
            if (world->calls[i].ticket == letter.ticket) {
                struct call *call = world->calls[i].call;
                forget(world, i);
                call->done(call, &letter.msg);
                break;
            }
    }
    buf_release(&letter.list);
}

void world_crash(struct world *world)
{
    if (!world->up)
        return;
    world->up = false;
    for (unsigned i = 0; i < world->letter_count; i++)
        buf_release(&world->letters[i].list);
    world->letter_count = 0;
    memset(world->followed, 0, sizeof world->followed);
    for (unsigned i = 0; i < world->call_count; i++)
        world->calls[i].answered = false; /* the router sends them again */
    hubs_on_bucket_lost(world->hubs, 0, 1);
}

void world_restart(struct world *world)
{
    if (world->up)
        return;
    world->up = true;
    hubs_on_bucket_up(world->hubs, 0, 1);
}
