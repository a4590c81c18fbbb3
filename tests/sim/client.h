/* A simulated netd: sends transactions and reads, keeps what is unanswered, and sends it again
 * with the same ids to the bucket's next incarnation. */
#pragma once

#include "proto/messages.h"
#include "tests/sim/model.h"
#include "tests/sim/prng.h"

/* Each client reads so much at the end, from whatever the run left. */
#define FINAL_READS  60u
#define REQUESTS_MAX 128u
#define CLIENT_PARTITIONS_MAX 64u

struct world;

/* One request on its way, until its answer has arrived or the link is gone. The checker fills in
 * what it saw. */
struct request {
    uint64_t id;
    enum msg_tag tag;
    uint32_t tx, partition, stream, read_event;
    uint64_t flags, from, to, count, bytes, watermark;
    bool reverse, continued;
    /* When it reached the bucket. */
    bool arrived;
    uint64_t arrival;
    uint64_t low;           /* events of the partition that it must see */
    bool tx_was_placed, tx_was_acked, tx_was_tried; /* of the transaction asked for, or sent */
    /* When the answer left the bucket. */
    bool answered, more;
    enum err err;
    uint64_t next, answer_watermark;
};

enum follow_state { FOLLOW_NOT, FOLLOW_ASKED, FOLLOW_ON };

struct follow {
    enum follow_state state; /* as the bucket sees it */
    bool wanted;             /* as the client sees it */
    uint64_t next;
};

/* Messages on their way, in one direction. */
struct flight {
    struct flight *next;
    struct buf bytes;
    uint64_t first_request;
};

struct flights {
    struct flight *first, *last;
    uint64_t last_time_ns;
};

struct client {
    struct world *world;
    uint32_t index;
    uint32_t link;          /* 0: none */
    struct prng prng;
    struct request requests[REQUESTS_MAX]; /* in order of their ids */
    uint32_t request_count;
    uint64_t next_request;
    uint32_t *resend;       /* transactions, in order */
    uint32_t resend_count, resend_cap;
    bool resend_wait;
    uint32_t final_reads;   /* still to be sent when the faults have ended */
    struct flights out, in;
    struct follow follows[CLIENT_PARTITIONS_MAX];
};

void client_init(struct client *client, struct world *world, uint32_t index, struct prng *seed);
void client_release(struct client *client);
/* A new link to the bucket. */
void client_connect(struct client *client);
/* The link is gone; what was on its way is lost, but for a first part of the answers. */
void client_disconnect(struct client *client);
/* Answers leave the bucket for this client. */
void client_on_frame(struct client *client, struct span frame);
/* Everything is answered, nothing waits. */
bool client_idle(const struct client *client);
struct request *client_find(struct client *client, uint64_t id);
