/* The bucket's core with real threads under it: libuv's pool, real files, small segments and
 * caches, so that flushes, preallocation, sealing, summaries and cold reads overlap all the time.
 * Made for ThreadSanitizer, and true without it: every append and read is answered, and a second
 * start has everything.
 *
 * Usage: threads_test [events] */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bucketd/core/bucket.h"
#include "bucketd/disk_posix.h"
#include "bucketd/env_posix.h"
#include "common/assert.h"

#define EVENTS_DEFAULT 20000u
#define PARTITIONS     4u
#define IN_FLIGHT_MAX  200u
#define READ_EVERY     4u
#define STREAMS        700u

struct driver {
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_timer_t timer;
    struct env_posix env;
    struct log log;
    struct bucket *bucket;
    struct buf outbox;
    uint32_t events, appended, answered, reads, reads_answered;
    bool stopping;
};

static void open_bucket(struct driver *driver, struct disk *disk);
static void on_turn(uv_prepare_t *prepare);
static void on_timer(uv_timer_t *timer);
static void send_more(struct driver *driver);
static void send_append(struct driver *driver, uint32_t number);
static void send_read(struct driver *driver, uint32_t number);
static void take_answers(struct driver *driver);
static struct buf *find_outbox(void *ctx, uint32_t link);

static struct uuid key_of(uint32_t partition)
{
    /* Bits 61..46 of the key are the partition's number. */
    struct uuid key = {{0}};
    key.bytes[8] = 0x80;
    key.bytes[9] = (uint8_t)(partition >> 2);
    key.bytes[10] = (uint8_t)(partition << 6);
    return key;
}

static struct uuid event_id(uint32_t number)
{
    uint8_t random[16] = {0};
    store_u32(random, number * 2654435761u);
    store_u32(random + 12, number);
    struct uuid key = key_of(number % PARTITIONS);
    return uuid_event_id(1700000000000u + number, uuid_hash(&key), random);
}

static struct bucket_config config_of_test(void)
{
    return (struct bucket_config){
        .bucket_count = 1,
        .partition_count = PARTITIONS,
        .cluster_id = {{1}},
        .segment_bytes = 128u << 10,
        .compression = true,
        .event_bytes_max = 64u << 10,
        .transaction_bytes_max = 64u << 10,
        .cache_bytes = 256u << 10,
        .index_cache_bytes = 512u << 10,
    };
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/sierradb-threads-XXXXXX", command[64];
    struct driver driver = {.events =
                                argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : EVENTS_DEFAULT,
                            .log = {.level = LOG_WARN, .proc = "threads"}};
    ASSERT(mkdtemp(dir) != NULL && uv_loop_init(&driver.loop) == 0);
    struct disk *disk = disk_posix_open(dir, &driver.log);
    ASSERT(disk != NULL);
    env_posix_init(&driver.env, &driver.loop, disk, &driver.log,
                   &(struct env_posix_links){.ctx = &driver, .outbox = find_outbox});
    open_bucket(&driver, disk);
    uv_prepare_init(&driver.loop, &driver.prepare);
    uv_timer_init(&driver.loop, &driver.timer);
    driver.prepare.data = driver.timer.data = &driver;
    uv_prepare_start(&driver.prepare, on_turn);
    uv_run(&driver.loop, UV_RUN_DEFAULT);

    ASSERT(driver.answered == driver.events && driver.reads_answered == driver.reads &&
           driver.reads > 0);
    bucket_free(driver.bucket);
    open_bucket(&driver, disk);
    struct bucket_stats stats;
    bucket_get_stats(driver.bucket, &stats);
    ASSERT(stats.events == driver.events && stats.segments > 1);
    printf("%u events, %u reads, %lu segments\n1 passed, 0 failed\n", driver.events, driver.reads,
           stats.segments);
    uv_run(&driver.loop, UV_RUN_DEFAULT); /* jobs that opening started */
    bucket_free(driver.bucket);
    disk_posix_close(disk);
    uv_loop_close(&driver.loop);
    buf_release(&driver.outbox);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command) == 0 ? 0 : 1;
}

static void open_bucket(struct driver *driver, struct disk *disk)
{
    struct bucket_config config = config_of_test();
    ASSERT(driver->env.env.disk == disk);
    driver->bucket = bucket_new(&config, &driver->env.env);
    ASSERT(bucket_open(driver->bucket) == ERR_OK);
}

static void on_turn(uv_prepare_t *prepare)
{
    struct driver *driver = prepare->data;
    /* Once nothing more can be sent, a job is running, and its end is the next turn. */
    uint32_t answered;
    do {
        answered = driver->answered;
        send_more(driver);
        bucket_turn(driver->bucket);
        env_posix_finish(&driver->env);
        take_answers(driver);
    } while (driver->answered != answered);
    bool all = driver->answered == driver->events && driver->reads_answered == driver->reads;
    if (all && !driver->stopping) {
        driver->stopping = true;
        bucket_stop(driver->bucket);
        uv_timer_start(&driver->timer, on_timer, 1, 1);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct driver *driver = timer->data;
    if (!bucket_idle(driver->bucket))
        return;
    uv_close((uv_handle_t *)&driver->timer, NULL);
    uv_close((uv_handle_t *)&driver->prepare, NULL);
}

static void send_more(struct driver *driver)
{
    while (driver->appended < driver->events &&
           driver->appended - driver->answered < IN_FLIGHT_MAX) {
        uint32_t number = driver->appended++;
        send_append(driver, number);
        if (number % READ_EVERY == 0 && number > 0)
            send_read(driver, number * 7919u % number);
    }
}

static void send_append(struct driver *driver, uint32_t number)
{
    char stream[32], payload[160];
    struct buf events = {0};
    memset(payload, 'a' + (int)(number % 26), sizeof payload);
    size_t stream_len = (size_t)snprintf(stream, sizeof stream, "stream-%u", number % STREAMS);
    rec_pack_new_event(&events,
                       &(struct rec_new_event){.event_id = event_id(number),
                                               .expect = EXPECT_ANY,
                                               .stream = span_of(stream, stream_len),
                                               .name = span_str("Tested"),
                                               .payload = span_of(payload, sizeof payload)});
    struct msg msg = {.tag = TAG_append_req,
                      .u.append_req = {.req_id = number,
                                       .flags = number % 5 == 0 ? APPEND_GIVEN_ID : 0,
                                       .partition = number % PARTITIONS,
                                       .partition_key = key_of(number % PARTITIONS),
                                       .count = 1,
                                       .events = buf_span(&events)}};
    bucket_on_message(driver->bucket, 1, &msg);
    buf_release(&events);
}

static void send_read(struct driver *driver, uint32_t number)
{
    struct msg msg = {.tag = TAG_get_req,
                      .u.get_req = {.req_id = number,
                                    .event_id = event_id(number),
                                    .partition = number % PARTITIONS}};
    if (number % 3 == 0)
        msg = (struct msg){.tag = TAG_scan_partition_req,
                           .u.scan_partition_req = {.req_id = number,
                                                    .partition = number % PARTITIONS,
                                                    .from = number / PARTITIONS,
                                                    .to = UINT64_MAX,
                                                    .count = 20,
                                                    .bytes = 64u << 10,
                                                    .watermark = UINT64_MAX}};
    driver->reads++;
    bucket_on_message(driver->bucket, 1, &msg);
}

static void take_answers(struct driver *driver)
{
    struct span frame = buf_span(&driver->outbox);
    while (frame.len > 0) {
        struct msg msg;
        ASSERT(msg_unpack(&frame, &msg) == ERR_OK);
        ASSERT(msg.tag == TAG_append_reply || msg.tag == TAG_events_reply);
        driver->answered += msg.tag == TAG_append_reply;
        driver->reads_answered += msg.tag == TAG_events_reply;
    }
    buf_clear(&driver->outbox, 1u << 20);
}

static struct buf *find_outbox(void *ctx, uint32_t link)
{
    struct driver *driver = ctx;
    (void)link;
    return &driver->outbox;
}
