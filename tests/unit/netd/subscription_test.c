/* Subscriptions against a model of a bucket: random appends, scans answered late, full windows and
 * buffers, restarts. Whatever the interleaving, each subscription gets every event of its selection
 * from its start on, once, in order, with cursors 0, 1, 2 ..., and never more than its window
 * beyond what it acknowledged. */
#include "tests/unit/netd/tail_model.h"

static void subscribe(struct world *world, struct subscriber *s)
{
    *s = (struct subscriber){
        .stream_kind = world_random(world, 2) == 0,
        .latest = world_random(world, 2) == 0,
        .partition = (uint32_t)world_random(world, PARTITIONS),
        .stream = (uint32_t)world_random(world, STREAMS),
        .window = 1 + world_random(world, 20),
    };
    uint64_t end = s->stream_kind ? world->answered_versions[s->partition][s->stream]
                                  : world->answered_count[s->partition];
    s->start = s->latest ? end : world_random(world, end + 5);
    struct stream_source_args stream = {
        .stream = world_stream(s->stream),
        .key_given = true,
        .key = world_key(s->partition),
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
        world_activate(world, s);
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
        uint64_t sequence = number_after(map, "+partition_sequence\r\n:"),
                 version = number_after(map, "+stream_version\r\n:");
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
        if (world_random(world, 4) == 0)
            subscribe(world, s);
        return;
    }
    read_pushes(world, s);
    switch (world_random(world, 8)) {
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
        if (world_random(world, 40) == 0)
            unsubscribe(s);
        break;
    default:
        if (s->cursor > s->acknowledged && world_random(world, 2) == 0) {
            uint64_t cursor = s->acknowledged + world_random(world, s->cursor - s->acknowledged);
            s->acknowledged = cursor + 1;
            subscription_acknowledge(s->subscription, cursor);
        }
    }
}

/* Everybody reads, acknowledges and is answered until nothing moves any more. */
static void settle(struct world *world)
{
    world_restart(world);
    for (unsigned round = 0; round < 20000; round++) {
        for (unsigned i = 0; i < 4; i++)
            world_answer(world);
        while (world->letter_count > 0)
            world_deliver(world);
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
        uint64_t end =
            s->stream_kind ? world->versions[s->partition][s->stream] : world->count[s->partition];
        if (s->started)
            ck_assert_uint_eq(s->next, end);
        else
            ck_assert_uint_ge(s->latest ? s->start_limit : s->start, end);
    }
}

static void run(uint64_t seed)
{
    struct world *world = world_new(seed);
    for (unsigned phase = 0; phase < 4; phase++) {
        for (unsigned step = 0; step < 1500; step++) {
            switch (world_random(world, 16)) {
            case 0:
            case 1:
            case 2:
                world_append(world);
                break;
            case 3:
            case 4:
            case 5:
            case 6:
                world_answer(world);
                break;
            case 7:
                if (world_random(world, 30) == 0)
                    world_crash(world);
                break;
            case 8:
                world_restart(world);
                break;
            case 9:
            case 10:
            case 11:
                act(world, &world->subscribers[world_random(world, SUBSCRIBERS)]);
                break;
            default:
                world_deliver(world);
            }
        }
        settle(world);
        check_complete(world);
    }
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        if (world->subscribers[i].subscription != NULL)
            unsubscribe(&world->subscribers[i]);
    world_free(world);
}

START_TEST(no_gap_and_no_repeat)
{
    for (uint64_t seed = 1; seed <= 6; seed++)
        run((uint64_t)_i * 1000 + seed);
}
END_TEST

START_TEST(acknowledging_is_bounded)
{
    struct world *world = world_new(7);
    struct subscriber *s = &world->subscribers[0];
    do {
        if (s->subscription != NULL)
            unsubscribe(s);
        subscribe(world, s);
    } while (s->stream_kind || s->latest || s->partition != 0);
    for (unsigned i = 0; i < 400; i++)
        world_append(world);
    for (unsigned i = 0; i < 50; i++) {
        world_answer(world);
        world_deliver(world);
    }
    read_pushes(world, s);
    ck_assert_uint_eq(s->cursor, s->window);
    /* What was not sent can't be acknowledged, and no acknowledgement is taken back. */
    s->acknowledged = s->cursor;
    subscription_acknowledge(s->subscription, UINT64_MAX);
    subscription_acknowledge(s->subscription, 0);
    for (unsigned i = 0; i < 50; i++) {
        world_answer(world);
        world_deliver(world);
    }
    read_pushes(world, s);
    ck_assert_uint_eq(s->cursor, 2 * s->window);
    unsubscribe(s);
    world_free(world);
}
END_TEST

START_TEST(a_lost_tail_is_read_from_history)
{
    struct world *world = world_new(11);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        subscribe(world, &world->subscribers[i]);
    settle(world);
    for (unsigned i = 0; i < 200; i++) {
        world_append(world);
        if (world->letter_count > 0 && world_random(world, 3) == 0)
            buf_release(&world->letters[--world->letter_count].list);
        settle(world);
    }
    /* An event of each stream shows what its subscribers missed. */
    for (uint32_t p = 0; p < PARTITIONS; p++)
        for (uint32_t s = 0; s < STREAMS; s++)
            for (uint64_t before = world->versions[p][s]; world->versions[p][s] == before;)
                world_append(world);
    settle(world);
    check_complete(world);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        unsubscribe(&world->subscribers[i]);
    world_free(world);
}
END_TEST

START_TEST(a_creation_ends_in_time)
{
    struct world *world = world_new(3);
    struct subscriber *subscriber = &world->subscribers[0];
    subscribe(world, subscriber); /* nothing answers */
    hubs_tick(world->hubs, TIMEOUT_MS - 1);
    ck_assert_uint_eq(world->given_up, 0);
    hubs_tick(world->hubs, TIMEOUT_MS);
    ck_assert_uint_eq(world->given_up, 1);
    ck_assert_ptr_null(subscriber->subscription);
    ck_assert_uint_eq(world->call_count, 0);

    /* A bucket that is given up isn't waited for. */
    subscribe(world, subscriber);
    world->down = true;
    hubs_tick(world->hubs, 0);
    ck_assert_uint_eq(world->given_up, 2);
    world_free(world);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("subscription");
    TCase *tcase = tcase_create("subscription");
    tcase_set_timeout(tcase, 100);
    tcase_add_loop_test(tcase, no_gap_and_no_repeat, 0, 4);
    tcase_add_test(tcase, acknowledging_is_bounded);
    tcase_add_test(tcase, a_lost_tail_is_read_from_history);
    tcase_add_test(tcase, a_creation_ends_in_time);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
