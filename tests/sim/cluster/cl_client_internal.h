/* What the parts of a simulated client share.
 *
 *   cl_client.c     life, links, turns, answers on their way
 *   cl_append.c     the channel of appends
 *   cl_subscribe.c  subscriptions
 *   cl_finish.c     what is done when faults have ended
 *   cl_requests.c   requests made up, and their messages */
#pragma once

#include "tests/sim/cluster/cl_client.h"
#include "tests/sim/cluster/cluster.h"
#include "tests/sim/model.h"

#define CL_REQUESTS_MAX 160u
#define CL_RETRIES_MAX  64u
#define CL_SESSIONS_MAX 3u
#define CL_NO_SESSION   UINT32_MAX
#define CL_NO_NODE      UINT32_MAX

/* A read or a follow_req: what it is, and where it is on its way. */
struct cl_request {
    uint64_t id, sent_ns;
    uint32_t node;
    enum msg_tag tag;
    uint32_t partition, stream, tx, event;
    uint64_t from, to, count, bytes, watermark, need;
    bool reverse, strong;
    uint32_t session; /* whose `need` it moves; CL_NO_SESSION */
    uint32_t tries;
    bool subscription; /* of a subscription's history */
    bool final;        /* one of the end's scans: given up never */
};

/* A transaction without an outcome. */
struct cl_append {
    uint32_t tx;
    uint64_t flags;   /* of its first sending */
    uint64_t sent_id; /* of the attempt under way in this epoch; 0: none */
    uint64_t sent_ns;
    uint32_t sent_to; /* the node */
    uint32_t tries;
    uint32_t session;
};

struct cl_channel {
    struct cl_append *queue; /* in order */
    uint32_t count, cap;
    uint32_t target;
    uint64_t hint_term;
    uint64_t epoch, number;
    bool reopen;                /* the next attempts begin a new epoch */
    bool hopped;                /* since the last pause */
    uint64_t failures;          /* pauses since something was taken */
    uint64_t resume_ns, pauses; /* sends nothing before; number of the pause */
};

enum cl_sub_state { SUB_OFF, SUB_WAITS, SUB_ASKED, SUB_HISTORY, SUB_LIVE };

struct cl_subscription {
    enum cl_sub_state state;
    uint32_t node;
    uint64_t cursor; /* the next event */
    uint64_t live;   /* the next one that a tail message brings */
    uint64_t resume_ns;
};

enum cl_finish { FINISH_NOT, FINISH_APPENDS, FINISH_READS, FINISH_DONE };

struct cl_client {
    struct cluster *cluster;
    struct model *model;
    const struct cl_workload *workload;
    uint32_t index;
    struct prng prng;
    uint64_t ticks; /* number of the planned turn */
    bool up[CL_NODES_MAX];
    uint32_t last_up;                            /* the node whose link came up last */
    uint32_t next_count;                         /* of request ids */
    struct cl_request requests[CL_REQUESTS_MAX]; /* under way */
    uint32_t request_count;
    struct cl_request retries[CL_RETRIES_MAX]; /* to be sent again */
    uint32_t retry_count;
    struct cl_channel channel;
    uint64_t *need[CL_SESSIONS_MAX];       /* by partition */
    struct cl_subscription *subscriptions; /* by partition */
    enum cl_finish finish;
    uint32_t finish_node; /* the next one to append through, or to read from */
    uint32_t finish_tx;   /* the append under way; NO_TX */
    uint32_t finish_partition;
    uint64_t finish_from;
    uint32_t finish_reads; /* random ones still to come */
};

/* --- cl_client.c --- */
/* Its next turn, in place of the one that was planned. */
void client_plan_tick(struct cl_client *client, uint64_t delay_ns);
/* A link that is up, drawn from all; CL_NO_NODE. */
uint32_t client_pick_node(struct cl_client *client);
/* Sends it to that node, with a new id. False: no link, or too many under way. */
bool client_send(struct cl_client *client, const struct cl_request *request, uint32_t node);
/* Later, at another node. */
void client_retry(struct cl_client *client, const struct cl_request *request);
/* A session has seen so many events of a partition. */
void client_saw(struct cl_client *client, uint32_t session, uint32_t partition, uint64_t count);
/* Gives up the link to a node. */
void client_give_up(struct cl_client *client, uint32_t node);
uint64_t client_new_id(struct cl_client *client, uint32_t about);
static inline uint64_t client_now(const struct cl_client *client)
{
    return client->cluster->sched.now_ns;
}

/* --- cl_append.c --- */
/* Puts a transaction behind the others. */
void channel_add(struct cl_client *client, uint32_t tx, uint64_t flags, uint32_t session);
void channel_send(struct cl_client *client);
void channel_on_answer(struct cl_client *client, uint32_t node, const struct msg *msg);
void channel_on_link_lost(struct cl_client *client, uint32_t node);
/* Whom to ask first from now on. */
void channel_turn_to(struct cl_client *client, uint32_t node);
/* Oldest attempt without an answer; UINT64_MAX. */
uint64_t channel_oldest_ns(const struct cl_client *client);
void channel_release(struct cl_client *client);

/* --- cl_subscribe.c --- */
void subscriptions_turn(struct cl_client *client);
void subscriptions_on_link_lost(struct cl_client *client, uint32_t node);
void subscription_on_follow(struct cl_client *client, const struct cl_request *request,
                            const struct msg_follow_reply *reply);
void subscription_on_history(struct cl_client *client, const struct cl_request *request,
                             const struct msg_events_reply *reply);
/* Its request failed, or was lost. */
void subscription_on_failure(struct cl_client *client, const struct cl_request *request);
void subscription_on_tail(struct cl_client *client, uint32_t node, const struct msg_tail *tail);
/* All are live and have all that is committed. */
bool subscriptions_level(const struct cl_client *client);

/* --- cl_finish.c --- */
void finish_turn(struct cl_client *client);

/* --- cl_requests.c --- */
/* Makes up a read; false where none is wanted now. */
bool request_invent_read(struct cl_client *client, struct cl_request *ret_request);
/* Makes up a transaction, or repeats an old one, and puts it into the channel. */
void request_invent_append(struct cl_client *client);
struct tx *request_invent_tx(struct cl_client *client);
void request_pack(const struct cl_client *client, const struct cl_request *request,
                  struct buf *out);
void request_pack_append(const struct cl_client *client, const struct cl_append *append,
                         uint64_t epoch, uint64_t number, struct buf *out);
