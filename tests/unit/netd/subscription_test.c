/* Subscriptions against a model of a bucket: random appends, scans answered late, full windows and buffers, restarts. Whatever
 * the interleaving, each subscription gets every event of its selection from its start on, once, in order, with cursors
 * 0, 1, 2 ..., and never more than its window beyond what it acknowledged. */
#include "netd/subscription.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/messages.h"

#define PARTITIONS 2u
#define STREAMS    3u /* in each partition */
#define EVENTS_MAX 4000u
#define SUBSCRIBERS 6u
#define CALLS_MAX  256u
#define TIMEOUT_MS 1000u

struct event {
    uint32_t stream;
    uint64_t version;
};

/* A message on its way from the bucket. */
struct letter {
    struct call *call;      /* NULL: a tail */
    uint64_t ticket;        /* of the call when it was answered */
    struct msg msg;
    struct buf list;
};

struct submitted {
    struct call *call;
    uint64_t ticket;
    bool answered;          /* its letter is on its way */
};

struct subscriber {
    struct subscription *subscription;
    bool stream_kind, latest, active, blocked;
    uint32_t partition, stream;
    uint64_t start;         /* LATEST: lower bound (at the command) */
    uint64_t start_limit;   /* LATEST: upper bound (at the answer) */
    uint64_t next;          /* the position expected next, once the first came */
    bool started;
    uint64_t cursor, acknowledged, window;
    struct buf out;
};

struct world {
    struct hubs *hubs;
    uint64_t random;
    struct event log[PARTITIONS][EVENTS_MAX];
    uint64_t count[PARTITIONS];
    uint64_t versions[PARTITIONS][STREAMS];
    /* Up to here appends are answered: their tails arrive with the answers, or before. */
    uint64_t answered_count[PARTITIONS], answered_versions[PARTITIONS][STREAMS];
    bool followed[PARTITIONS];
    bool up;
    struct submitted calls[CALLS_MAX];
    unsigned call_count;
    struct letter *letters;
    unsigned letter_count, letter_cap;
    uint64_t tickets;
    struct subscriber subscribers[SUBSCRIBERS];
};

static uint64_t next_random(struct world *world, uint64_t below)
{
    world->random ^= world->random << 13;
    world->random ^= world->random >> 7;
    world->random ^= world->random << 17;
    return world->random % below;
}

static struct span stream_name(uint32_t stream)
{
    static const char *const names[STREAMS] = {"alpha", "beta", "gamma"};
    return span_str(names[stream]);
}

/* The key decides the partition: its hash's lowest bit is bit 46 of the id. */
static struct uuid stream_key(uint32_t partition)
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
        .partition_key = stream_key(partition),
        .partition = partition,
        .sequence = sequence,
        .version = event->version,
        .stream = stream_name(event->stream),
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
    world->calls[world->call_count++] = (struct submitted){.call = call, .ticket = ++world->tickets};
}

static void forget(struct world *world, unsigned i)
{
    memmove(&world->calls[i], &world->calls[i + 1], (world->call_count - i - 1) * sizeof world->calls[0]);
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
    (void)ctx;
    (void)partition;
    return false;
}

static void activate(struct world *world, struct subscriber *subscriber)
{
    const struct subscriber *s = subscriber;
    subscriber->start_limit = s->stream_kind ? world->versions[s->partition][s->stream] : world->count[s->partition];
    ck_assert_uint_eq(subscriber->out.len, 0); /* no message before the answer */
    subscriber->active = true;
    subscription_activate(subscriber->subscription, &subscriber->out, 1);
}

static void ops_created(void *ctx, struct subscription *subscription, enum err err)
{
    struct subscriber *subscriber = subscription->owner;
    ck_assert_int_eq(err, ERR_OK);
    ck_assert(!subscriber->active);
    activate(ctx, subscriber);
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

static void append(struct world *world)
{
    uint32_t p = (uint32_t)next_random(world, PARTITIONS);
    uint64_t first = world->count[p], count = 1 + next_random(world, 3);
    if (!world->up || first + count > EVENTS_MAX)
        return;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t stream = (uint32_t)next_random(world, STREAMS);
        world->log[p][world->count[p]++] = (struct event){.stream = stream, .version = world->versions[p][stream]++};
    }
    if (!world->followed[p]) {
        learn(world, p, world->count[p]);
        return;
    }
    struct letter *letter = post(world);
    letter->msg = (struct msg){.tag = TAG_tail, .u.tail = {.partition = p, .first = first, .count = count}};
    for (uint64_t i = 0; i < count; i++)
        pack(&letter->list, world, p, first + i);
}

static void answer_scan(struct world *world, const struct call *call, struct letter *letter)
{
    bool by_stream = call->msg.tag == TAG_scan_stream_req;
    const struct msg_scan_stream_req *s = &call->msg.u.scan_stream_req;
    const struct msg_scan_partition_req *p = &call->msg.u.scan_partition_req;
    uint32_t partition = (uint32_t)(by_stream ? s->partition : p->partition);
    uint64_t from = by_stream ? s->from : p->from, count = by_stream ? s->count : p->count, found = 0;
    ck_assert_uint_gt(count, 0);
    count = 1 + next_random(world, count); /* a chunk may be cut by its bytes */
    struct msg_events_reply reply = {.watermark = world->count[partition], .next = from};
    for (uint64_t sequence = 0; sequence < reply.watermark; sequence++) {
        const struct event *event = &world->log[partition][sequence];
        uint64_t position = by_stream ? event->version : sequence;
        if ((by_stream && !span_equal(s->stream, stream_name(event->stream))) || position < from)
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
static void answer(struct world *world)
{
    if (!world->up || world->call_count == 0)
        return;
    unsigned i = (unsigned)next_random(world, world->call_count);
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
        letter->msg = (struct msg){.tag = TAG_follow_reply, .u.follow_reply = {.partition = p, .watermark = world->count[p]}};
    } else if (call->msg.tag == TAG_version_req) {
        const struct msg_version_req *req = &call->msg.u.version_req;
        uint64_t version = 0;
        for (uint32_t s = 0; s < STREAMS; s++)
            if (span_equal(req->stream, stream_name(s)))
                version = world->versions[req->partition][s];
        letter->msg = (struct msg){.tag = TAG_number_reply,
                                   .u.number_reply = {.present = version > 0, .value = version - (version > 0),
                                                      .watermark = world->count[req->partition]}};
    } else {
        answer_scan(world, call, letter);
        /* What was cut early may arrive late. */
        if (world->letter_count > 1 && next_random(world, 2) == 0)
            submitted->answered = true;
    }
}

static void deliver_letter(struct world *world)
{
    if (world->letter_count == 0)
        return;
    struct letter letter = world->letters[0];
    memmove(&world->letters[0], &world->letters[1], (world->letter_count - 1) * sizeof world->letters[0]);
    world->letter_count--;
    if (letter.call == NULL) {
        letter.msg.u.tail.events = buf_span(&letter.list);
        learn(world, (uint32_t)letter.msg.u.tail.partition, letter.msg.u.tail.first + letter.msg.u.tail.count);
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

static void crash(struct world *world)
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

static void restart(struct world *world)
{
    if (world->up)
        return;
    world->up = true;
    hubs_on_bucket_up(world->hubs, 0, 1);
}

/* --- the subscribers --- */

static void subscribe(struct world *world, struct subscriber *s)
{
    *s = (struct subscriber){
        .stream_kind = next_random(world, 2) == 0,
        .latest = next_random(world, 2) == 0,
        .partition = (uint32_t)next_random(world, PARTITIONS),
        .stream = (uint32_t)next_random(world, STREAMS),
        .window = 1 + next_random(world, 20),
    };
    uint64_t end = s->stream_kind ? world->answered_versions[s->partition][s->stream] : world->answered_count[s->partition];
    s->start = s->latest ? end : next_random(world, end + 5);
    struct stream_source_args stream = {
        .stream = stream_name(s->stream), .key_given = true, .key = stream_key(s->partition),
        .start = {.latest = s->latest, .position = s->latest ? 0 : s->start},
    };
    struct partition_source_args partition = {.partition = s->partition, .start = stream.start};
    struct subscribe_args args = {.count = 1, .window = s->window};
    if (s->stream_kind)
        args.streams = &stream;
    else
        args.partitions = &partition;
    struct uuid id = {{1}};
    s->subscription = subscription_new(world->hubs, s, &id, 3, &args, 1000, PARTITIONS, TIMEOUT_MS);
    if (s->subscription->waiting == 0)
        activate(world, s);
}

static void unsubscribe(struct subscriber *s)
{
    subscription_free(s->subscription);
    buf_release(&s->out);
    *s = (struct subscriber){0};
}

static uint64_t number_after(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    ck_assert_ptr_nonnull(at);
    return strtoull(at + strlen(key), NULL, 10);
}

/* Reads what was pushed and checks each message against what must come next. */
static void read_pushes(struct world *world, struct subscriber *s)
{
    buf_append(&s->out, "", 1);
    char *text = (char *)s->out.ptr, *end = text + s->out.len - 1;
    if (strncmp(text, ">3\r\n+subscribe\r\n", 16) == 0) {
        text = strchr(strstr(text, ":"), '\n') + 1;
        ck_assert(s->active);
    }
    while (text < end) {
        ck_assert_int_eq(strncmp(text, ">4\r\n+message\r\n+01000000-", 24), 0);
        char *next = memchr(text + 1, '>', (size_t)(end - text - 1));
        char *map = strstr(text, "%11\r\n");
        ck_assert_ptr_nonnull(map);
        ck_assert_uint_eq(number_after(text, "000000000000\r\n:"), s->cursor);
        s->cursor++;
        ck_assert_uint_le(s->cursor - s->acknowledged, s->window);
        if (next != NULL)
            *next = '\0';
        ck_assert_uint_eq(number_after(map, "+partition_id\r\n:"), s->partition);
        uint64_t sequence = number_after(map, "+partition_sequence\r\n:"), version = number_after(map, "+stream_version\r\n:");
        ck_assert_uint_lt(sequence, world->count[s->partition]);
        const struct event *event = &world->log[s->partition][sequence];
        ck_assert_uint_eq(event->version, version);
        uint64_t position = s->stream_kind ? version : sequence;
        if (s->stream_kind)
            ck_assert_uint_eq(event->stream, s->stream);
        if (!s->started && s->latest) {
            /* Somewhere between the command and its answer; from there on everything. */
            ck_assert_uint_ge(position, s->start);
            ck_assert_uint_le(position, s->start_limit);
        } else {
            ck_assert_uint_eq(position, s->started ? s->next : s->start);
        }
        s->started = true;
        s->next = position + 1;
        text = next != NULL ? next : end;
        if (next != NULL)
            *next = '>';
    }
    s->out.len = 0;
}

static void act(struct world *world, struct subscriber *s)
{
    if (s->subscription == NULL) {
        if (next_random(world, 4) == 0)
            subscribe(world, s);
        return;
    }
    read_pushes(world, s);
    switch (next_random(world, 8)) {
    case 0:
        s->blocked = true;
        break;
    case 1:
    case 2:
        if (s->blocked) {
            s->blocked = false;
            subscription_resume(s->subscription);
        }
        break;
    case 3:
        if (next_random(world, 40) == 0)
            unsubscribe(s);
        break;
    default:
        if (s->cursor > s->acknowledged && next_random(world, 2) == 0) {
            uint64_t cursor = s->acknowledged + next_random(world, s->cursor - s->acknowledged);
            s->acknowledged = cursor + 1;
            subscription_acknowledge(s->subscription, cursor);
        }
    }
}

/* Everybody reads, acknowledges and is answered until nothing moves any more. */
static void settle(struct world *world)
{
    restart(world);
    for (unsigned round = 0; round < 20000; round++) {
        for (unsigned i = 0; i < 4; i++)
            answer(world);
        while (world->letter_count > 0)
            deliver_letter(world);
        for (unsigned i = 0; i < SUBSCRIBERS; i++) {
            struct subscriber *s = &world->subscribers[i];
            if (s->subscription == NULL)
                continue;
            if (s->blocked) {
                s->blocked = false;
                subscription_resume(s->subscription);
            }
            read_pushes(world, s);
            if (s->cursor > s->acknowledged) {
                s->acknowledged = s->cursor;
                subscription_acknowledge(s->subscription, s->cursor - 1);
            }
        }
        if (world->call_count == 0 && world->letter_count == 0)
            return;
    }
    ck_abort_msg("does not settle");
}

static void check_complete(struct world *world)
{
    for (unsigned i = 0; i < SUBSCRIBERS; i++) {
        struct subscriber *s = &world->subscribers[i];
        if (s->subscription == NULL)
            continue;
        ck_assert(s->active);
        uint64_t end = s->stream_kind ? world->versions[s->partition][s->stream] : world->count[s->partition];
        if (s->started)
            ck_assert_uint_eq(s->next, end);
        else
            ck_assert_uint_ge(s->latest ? s->start_limit : s->start, end);
    }
}

static void run(uint64_t seed)
{
    struct world *world = calloc(1, sizeof *world);
    ck_assert_ptr_nonnull(world);
    world->random = seed * 0x9e3779b97f4a7c15ull + 1;
    world->up = true;
    world->hubs = hubs_new(PARTITIONS, &(struct tail_ops){
        .ctx = world, .submit = ops_submit, .cancel = ops_cancel, .unfollow = ops_unfollow,
        .partition_is_down = ops_is_down, .created = ops_created, .push_room = ops_push_room, .damaged = ops_damaged,
    });
    for (unsigned phase = 0; phase < 4; phase++) {
        for (unsigned step = 0; step < 1500; step++) {
            switch (next_random(world, 16)) {
            case 0:
            case 1:
            case 2:
                append(world);
                break;
            case 3:
            case 4:
            case 5:
            case 6:
                answer(world);
                break;
            case 7:
                if (next_random(world, 30) == 0)
                    crash(world);
                break;
            case 8:
                restart(world);
                break;
            case 9:
            case 10:
            case 11:
                act(world, &world->subscribers[next_random(world, SUBSCRIBERS)]);
                break;
            default:
                deliver_letter(world);
            }
        }
        settle(world);
        check_complete(world);
    }
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        if (world->subscribers[i].subscription != NULL)
            unsubscribe(&world->subscribers[i]);
    ck_assert_uint_eq(hubs_subscriptions(world->hubs), 0);
    hubs_free(world->hubs);
    free(world->letters);
    free(world);
}

START_TEST(no_gap_and_no_repeat)
{
    for (uint64_t seed = 1; seed <= 6; seed++)
        run((uint64_t)_i * 1000 + seed);
}
END_TEST

START_TEST(acknowledging_is_bounded)
{
    struct world *world = calloc(1, sizeof *world);
    ck_assert_ptr_nonnull(world);
    world->random = 7;
    world->up = true;
    world->hubs = hubs_new(PARTITIONS, &(struct tail_ops){
        .ctx = world, .submit = ops_submit, .cancel = ops_cancel, .unfollow = ops_unfollow,
        .partition_is_down = ops_is_down, .created = ops_created, .push_room = ops_push_room, .damaged = ops_damaged,
    });
    struct subscriber *s = &world->subscribers[0];
    do {
        if (s->subscription != NULL)
            unsubscribe(s);
        subscribe(world, s);
    } while (s->stream_kind || s->latest || s->partition != 0);
    for (unsigned i = 0; i < 400; i++)
        append(world);
    for (unsigned i = 0; i < 50; i++) {
        answer(world);
        deliver_letter(world);
    }
    read_pushes(world, s);
    ck_assert_uint_eq(s->cursor, s->window);
    /* What was not sent can't be acknowledged, and no acknowledgement is taken back. */
    s->acknowledged = s->cursor;
    subscription_acknowledge(s->subscription, UINT64_MAX);
    subscription_acknowledge(s->subscription, 0);
    for (unsigned i = 0; i < 50; i++) {
        answer(world);
        deliver_letter(world);
    }
    read_pushes(world, s);
    ck_assert_uint_eq(s->cursor, 2 * s->window);
    unsubscribe(s);
    for (unsigned i = 0; i < world->letter_count; i++)
        buf_release(&world->letters[i].list);
    hubs_free(world->hubs);
    free(world->letters);
    free(world);
}
END_TEST

START_TEST(a_creation_ends_in_time)
{
    struct world *world = calloc(1, sizeof *world);
    ck_assert_ptr_nonnull(world);
    world->random = 3;
    world->hubs = hubs_new(PARTITIONS, &(struct tail_ops){
        .ctx = world, .submit = ops_submit, .cancel = ops_cancel, .unfollow = ops_unfollow,
        .partition_is_down = ops_is_down, .push_room = ops_push_room, .damaged = ops_damaged,
        .created = NULL, /* called only at the deadline, which is never reached here */
    });
    subscribe(world, &world->subscribers[0]);
    ck_assert_uint_gt(world->subscribers[0].subscription->waiting, 0);
    hubs_tick(world->hubs, TIMEOUT_MS - 1);
    ck_assert(!world->subscribers[0].active);
    unsubscribe(&world->subscribers[0]);
    ck_assert_uint_eq(world->call_count, 0);
    hubs_free(world->hubs);
    free(world);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("subscription");
    TCase *tcase = tcase_create("subscription");
    tcase_set_timeout(tcase, 100);
    tcase_add_loop_test(tcase, no_gap_and_no_repeat, 0, 4);
    tcase_add_test(tcase, acknowledging_is_bounded);
    tcase_add_test(tcase, a_creation_ends_in_time);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
