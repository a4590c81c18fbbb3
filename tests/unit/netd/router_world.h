/* What the router's tests share: a router of a node that holds no replica of the one bucket, whose
 * three replicas are other nodes. What it sends is kept, answers are made by the test. */
#pragma once

#include "common/limits.h"
#include "netd/router.h"

enum { WORLD_NODES = 4, WORLD_SENT_MAX = 256 };

struct sent {
    uint32_t node;
    struct msg msg;
};

struct test_call {
    struct call call;
    unsigned done;
    struct msg reply;
    char text[96];
};

struct router_world {
    struct config config;
    struct log log;
    struct router *router;
    uint32_t replicas[REPLICAS_MAX];
    uint64_t now_ms;
    struct sent sent[WORLD_SENT_MAX];
    unsigned sent_count, read_count; /* read: already looked at by the test */
    struct buf kept[WORLD_SENT_MAX];
    unsigned kept_count;
    bool refuse_sending;
    unsigned ups, losts, tails;
};

extern struct router_world world;

/* All three replicas' nodes are up. */
void world_setup(void);
/* Just begun, and only so many of them, the first ones. */
void world_setup_young(unsigned up);
void world_teardown(void);
void world_flush(void);
/* Time passes; then a tick and a flush. */
void world_pass(uint64_t ms);
/* Nothing was sent until now. */
void world_forget(void);

/* tag: TAG_append_req, TAG_follow_req, TAG_sequence_req. */
void world_submit(struct test_call *test, enum msg_tag tag, uint64_t partition);
/* The next message that left; NULL: none. */
struct sent *world_next(void);
/* The next one, which is of this kind: whoever isn't followed any more is told so, that is passed
 * over. */
struct sent *world_next_of(enum msg_tag tag);
/* Answers to it, from where it was sent to. */
void world_answer(uint32_t node, const struct msg *msg);
void world_stored(const struct sent *to, uint64_t sequence);
void world_refuse(const struct sent *to, enum err err, uint64_t leader, uint64_t term);
void world_followed(const struct sent *to, uint64_t watermark);
void world_number(const struct sent *to, uint64_t value);
/* The replica that is neither of these. */
uint32_t world_third(uint32_t a, uint32_t b);
uint32_t world_other(uint32_t a);

void ck_failed(const struct test_call *test, enum err err);
void ck_stored(const struct test_call *test);
