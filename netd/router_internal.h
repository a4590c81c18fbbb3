/* What router.c (queues, credit, answers) and router_target.c (the replicas of a bucket, and which
 * of them is asked) share. */
#pragma once

#include "common/assert.h"
#include "common/limits.h"
#include "netd/router.h"

/* What an answer's req_id leads to. A slot outlives its call where the call was cancelled in
 * flight. */
struct slot {
    struct call *call;
    struct target *target; /* that was asked */
    uint32_t generation;
    uint32_t next_free;
    bool used;
    uint8_t kind; /* enum slot_kind */
};

enum slot_kind { SLOT_APPEND, SLOT_READ, SLOT_SCAN };

/* One replica of a bucket. */
struct target {
    struct route *route;
    uint32_t node;
    bool local;
    bool up;
    bool ever_up;      /* since this netd's start */
    struct link *link; /* local; NULL: none */
    uint64_t link_id;
    struct buf out;       /* another node's: this turn's messages */
    size_t patient_bytes; /* local: of the link's outbox, from its front; they wait for company */
    /* It said "not I", or "not now": it isn't asked before. */
    uint64_t appends_rest_until_ms, reads_rest_until_ms, follows_rest_until_ms;
    uint64_t no_quorum_until_ms; /* it said so not long ago */
};

struct route {
    struct router *router;
    uint32_t bucket;
    struct target targets[REPLICAS_MAX];
    uint32_t target_count;
    struct target *local;         /* NULL: this node holds no replica */
    struct target *follow;        /* whom its partitions are followed at; NULL: nobody is up */
    uint64_t leader, leader_term; /* node + 1; 0: not known */
    uint32_t next_try;
    uint64_t up_ms;           /* some target was, at the tick then */
    bool down;                /* the supervisor gave the local process up for now */
    struct call_list appends; /* waiting */
    struct call_list frame;   /* sent, in order */
    struct call_list refused; /* of this frame, to be sent again before the waiting ones */
    struct target *frame_target;
    uint64_t frame_sent_ms, frame_moved_ms; /* the last answer of it */
    uint32_t frame_pending; /* answers the frame still owes, cancelled calls included */
    uint64_t epoch, number; /* of the next append */
    struct call_list reads, reading;
    uint32_t slots_used[3]; /* by slot_kind */
    uint64_t queued_bytes, queued_appends;
    struct slot *slots;
    uint32_t slot_count, slot_free;
};

struct router {
    uv_loop_t *loop;
    const struct config *config;
    const struct log *log;
    uint64_t own_boot, now_ms;
    uint64_t started_ms; /* the first turn */
    uint64_t origin;     /* 0: one node, no order is kept beyond the links' */
    struct router_callbacks callbacks;
    uint32_t route_count;
    uint32_t first_route; /* whose turn it is to send first */
    /* Frames of appends at work at a time: as many as there are processors. More would only be
     * smaller, and each costs about as much as 20 appends. */
    uint32_t working_max;
    bool room_made;
    /* By bucket: something may be sent. Turns are many, and most buckets have nothing to do with
     * most of them. */
    bool *marks;
    bool marked; /* any of them */
    struct router_stats stats;
    struct route routes[];
};

/* Calls were queued, messages packed, or there is room for more: the next flush has a look. */
static inline void route_mark(struct route *route)
{
    route->router->marks[route->bucket] = route->router->marked = true;
}

#define SLOT_NONE UINT32_MAX

/* --- router_slot.c --- */
uint32_t route_take_slot(struct target *target, struct call *call, enum slot_kind kind);
void route_release_slot(struct route *route, uint32_t index);

/* --- router.c --- */
void route_on_message(struct target *target, const struct msg *msg);
/* Nothing more comes of what was sent to this target: it waits again, in order, before what is
 * newer. */
void route_take_back(struct route *route, struct target *target);

/* --- router_target.c --- */
void route_init(struct router *router, struct route *route, uint32_t bucket);
void route_release(struct route *route);
/* Whom to ask; NULL: nobody now. */
struct target *route_append_target(struct route *route, uint64_t now_ms);
struct target *route_read_target(struct route *route, const struct call *call, uint64_t now_ms);
/* Every replica that is up has said not long ago that it sees no quorum, or none was up for long;
 * and this netd has run for long enough to tell. */
bool route_has_no_quorum(const struct route *route, uint64_t now_ms);
/* A fail_reply's hint. */
void route_learn_leader(struct route *route, uint64_t leader, uint64_t term);
/* Follows at the best target there is now. */
void route_choose_follow(struct route *route, uint64_t now_ms);
bool route_is_up(const struct route *route);
struct buf *target_outbox(struct target *target);
/* False: what was packed is dropped. */
bool target_flush(struct target *target);
uint8_t target_bit(const struct target *target);
