/* One command of a client, from its arguments to its reply. Requests stand in their client's queue
 * in the order they came, and their replies leave in that order: a request at the head writes into
 * the client's output, any other into a buffer of its own until its turn. Pooled: no allocation in
 * steady state. */
#pragma once

#include "netd/call.h"
#include "netd/subscription.h"

struct client;
struct command;
struct netd;

/* Appends and reads of one connection never overlap, so that its commands take effect in the order
 * sent. A barrier waits until nothing is in flight. */
enum command_class { CLASS_LOCAL, CLASS_APPEND, CLASS_READ, CLASS_BARRIER };

struct bucket_part; /* of a request that asks all buckets */

struct request {
    struct request *next; /* in the client's queue, or in the pool */
    struct netd *netd;
    struct client *client; /* NULL: it went away; the answer is dropped */
    const struct command *command;
    enum command_class class;
    int proto;
    bool done;
    bool close_after;   /* close the connection behind this reply */
    struct buf out;     /* the reply, where it had to wait */
    size_t reply_start; /* where it begins in the buffer that request_out gave */
    struct call call;

    /* appends */
    struct buf events; /* new_event records, as they travel */
    uint64_t event_count;
    struct uuid partition_key, event_id; /* of the first event */
    uint32_t partition;
    bool multi;

    /* reads */
    uint8_t stream[64];
    uint64_t remaining, found;
    bool chunk_waits; /* a further chunk is asked for once this request is at the head */
    struct buf body;  /* events of the chunks so far */
    struct subscription *subscription;
    struct bucket_part *parts;
    uint32_t parts_left;
};

struct request_pool {
    struct request *first;
    uint32_t count;
};

struct request *request_new(struct netd *netd, struct client *client, int proto);
/* Back to the pool. It is in no queue and has no call in flight. */
void request_free(struct request *request);
void request_pool_release(struct request_pool *pool);

/* Where the reply goes. What is written in one go stays together; ask again after anything else
 * ran. */
struct buf *request_out(struct request *request);
/* "-CODE text" and done. */
void request_fail(struct request *request, const char *code, struct span text);
/* The newest request of its client wasn't started after all. */
void request_withdraw(struct request *request);
/* The reply is written: it leaves when its turn has come. */
void request_done(struct request *request);
