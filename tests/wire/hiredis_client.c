/* Client test: hiredis against a node. Usage: hiredis_client PORT PROTOCOL PREFIX.
 * Appends, reads, scans and subscribes, and checks every reply's type. Prints one line "ok".
 * hiredis before 1.0 knows no RESP3: then protocol 3 ends with status 77.
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if HIREDIS_MAJOR >= 1
#define HAS_RESP3 1
#else
#define HAS_RESP3 0
#define REDIS_REPLY_MAP  REDIS_REPLY_ARRAY
#define REDIS_REPLY_BOOL REDIS_REPLY_INTEGER
#endif

#define REQUIRE(condition) require((condition), #condition, __LINE__)

static void require(int good, const char *what, int line) {
    if (!good) {
        fprintf(stderr, "line %d: %s\n", line, what);
        exit(1);
    }
}

static redisReply *command(redisContext *context, const char *format, ...) {
    va_list args;
    va_start(args, format);
    redisReply *reply = redisvCommand(context, format, args);
    va_end(args);
    if (reply == NULL) {
        fprintf(stderr, "%s: %s\n", format, context->errstr);
        exit(1);
    }
    if (reply->type == REDIS_REPLY_ERROR) {
        fprintf(stderr, "%s: %s\n", format, reply->str);
        exit(1);
    }
    return reply;
}

/* The value of a key in a map of either protocol. */
static const redisReply *field(const redisReply *map, const char *name) {
    for (size_t i = 0; i + 1 < map->elements; i += 2) {
        if (strcmp(map->element[i]->str, name) == 0) {
            return map->element[i + 1];
        }
    }
    fprintf(stderr, "no field %s\n", name);
    exit(1);
}

static void check_append_and_read(redisContext *context, int protocol, const char *stream) {
    const char *bytes = "a\0b\r\n";
    redisReply *reply = command(context, "EAPPEND %s First EXPECTED_VERSION empty PAYLOAD %b",
                                stream, bytes, (size_t)5);
    REQUIRE(reply->type == (protocol == 3 ? REDIS_REPLY_MAP : REDIS_REPLY_ARRAY));
    REQUIRE(reply->elements == 12);
    REQUIRE(field(reply, "stream_version")->type == REDIS_REPLY_INTEGER);
    char event_id[64];
    snprintf(event_id, sizeof event_id, "%s", field(reply, "event_id")->str);
    freeReplyObject(reply);
    for (int i = 0; i < 9; i++) {
        freeReplyObject(
            command(context, "EAPPEND %s Next EXPECTED_VERSION %d METADATA m", stream, i));
    }
    reply = command(context, "EGET %s", event_id);
    const redisReply *payload = field(reply, "payload"), *metadata = field(reply, "metadata");
    REQUIRE(payload->len == 5 && memcmp(payload->str, bytes, 5) == 0);
    REQUIRE(metadata->type == REDIS_REPLY_STRING && metadata->len == 0);
    freeReplyObject(reply);
    reply = command(context, "ESVER %s", stream);
    REQUIRE(reply->type == REDIS_REPLY_INTEGER && reply->integer == 9);
    freeReplyObject(reply);
    reply = command(context, "ESVER %s-none", stream);
    REQUIRE(reply->type == REDIS_REPLY_NIL);
    freeReplyObject(reply);
    reply = command(context, "ESCAN %s - + COUNT 3", stream);
    const redisReply *more = field(reply, "has_more");
    REQUIRE(more->type == (protocol == 3 ? REDIS_REPLY_BOOL : REDIS_REPLY_INTEGER));
    REQUIRE(more->integer == 1);
    REQUIRE(field(reply, "events")->elements == 3);
    freeReplyObject(reply);
    reply = redisCommand(context, "EAPPEND %s Bad EXPECTED_VERSION empty", stream);
    REQUIRE(reply && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "WRONGVER ", 9) == 0);
    freeReplyObject(reply);
}

static void check_pipeline(redisContext *context, const char *stream) {
    for (int i = 9; i < 1009; i++) {
        int status = redisAppendCommand(context, "EAPPEND %s Piped EXPECTED_VERSION %d", stream, i);
        REQUIRE(status == REDIS_OK);
    }
    for (int i = 10; i < 1010; i++) {
        redisReply *reply = NULL;
        REQUIRE(redisGetReply(context, (void **)&reply) == REDIS_OK);
        REQUIRE(reply->type != REDIS_REPLY_ERROR && field(reply, "stream_version")->integer == i);
        freeReplyObject(reply);
    }
}

/* RESP2: everything of a subscription comes as ordinary arrays. */
static void check_subscription2(redisContext *context, const char *stream) {
    freeReplyObject(command(context, "ESUB %s FROM 0 WINDOW 5", stream));
    for (int i = 0; i < 6; i++) {
        redisReply *reply = NULL;
        REQUIRE(redisGetReply(context, (void **)&reply) == REDIS_OK);
        REQUIRE(reply->type == REDIS_REPLY_ARRAY);
        REQUIRE(strcmp(reply->element[0]->str, i == 0 ? "subscribe" : "message") == 0);
        REQUIRE(i == 0 || reply->element[2]->integer == i - 1);
        freeReplyObject(reply);
    }
}

#if HAS_RESP3
static int pushes;

static void on_push(void *privdata, void *raw) {
    redisReply *reply = raw;
    (void)privdata;
    REQUIRE(reply->type == REDIS_REPLY_PUSH);
    REQUIRE(reply->elements == (pushes == 0 ? 3 : 4));
    REQUIRE(strcmp(reply->element[0]->str, pushes == 0 ? "subscribe" : "message") == 0);
    if (pushes > 0) {
        REQUIRE(reply->element[2]->integer == pushes - 1);
        REQUIRE(field(reply->element[3], "stream_version")->integer == pushes - 1);
    }
    pushes++;
    freeReplyObject(reply);
}

static void check_subscription3(redisContext *context, const char *stream) {
    redisSetPushCallback(context, on_push);
    redisReply *reply = command(context, "ESUB %s FROM 0 WINDOW 5", stream);
    REQUIRE(reply->type == REDIS_REPLY_STATUS && reply->len == 36);
    for (int i = 0; i < 100000 && pushes < 6; i++) {
        freeReplyObject(command(context, "PING"));
    }
    REQUIRE(pushes == 6);
    freeReplyObject(command(context, "EACK %s 4", reply->str));
    for (int i = 0; i < 100000 && pushes < 11; i++) {
        freeReplyObject(command(context, "PING"));
    }
    REQUIRE(pushes == 11);
    freeReplyObject(reply);
}
#endif

int main(int argc, char **argv) {
    REQUIRE(argc == 4);
    int port = (int)strtol(argv[1], NULL, 10);
    int protocol = (int)strtol(argv[2], NULL, 10);
    if (protocol == 3 && !HAS_RESP3) {
        return 77;
    }
    redisContext *context = redisConnect("127.0.0.1", port);
    REQUIRE(context && !context->err);
    redisReply *reply = command(context, "HELLO %d", protocol);
    REQUIRE(field(reply, "proto")->integer == protocol);
    freeReplyObject(reply);
    check_append_and_read(context, protocol, argv[3]);
    check_pipeline(context, argv[3]);
#if HAS_RESP3
    if (protocol == 3) {
        check_subscription3(context, argv[3]);
        redisFree(context);
        puts("ok");
        return 0;
    }
#endif
    check_subscription2(context, argv[3]);
    redisFree(context);
    puts("ok");
    return 0;
}
