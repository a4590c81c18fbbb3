/* What hub.c and subscription.c know of each other. */
#pragma once

#include "common/limits.h"
#include "netd/hub.h"
#include "netd/subscription.h"

/* What hubs->rendered keeps between messages. */
#define HUB_RENDERED_KEEP_BYTES (1u << 20)

enum hub_state {
    HUB_IDLE,   /* nobody wants it */
    HUB_ASKED,  /* follow_req waits or is on its way */
    HUB_LIVE,   /* tail messages come */
    HUB_LOST,   /* the bucket's process is gone */
    HUB_FAILED, /* follow_req was refused; tried again */
};

enum source_state {
    SOURCE_UNKNOWN, /* LATEST, before the position is known */
    SOURCE_HISTORY,
    SOURCE_LIVE,
};

struct source {
    struct subscription *subscription;
    struct hub *hub;
    struct source *hub_prev, *hub_next;
    enum source_state state;
    bool waiting; /* counted in subscription->waiting */
    bool busy;    /* `call` is on its way */
    bool failed;  /* its last read failed; hubs_tick tries again */
    bool is_stream;
    uint8_t stream_len;
    uint64_t next;           /* position of its next event: a version or a sequence */
    uint64_t complete_below; /* streams: events of lower sequences are delivered or unwanted */
    struct uuid key;
    uint8_t stream[STREAM_ID_LEN_MAX];
    struct call call;
};

struct hub {
    struct hubs *hubs;
    uint32_t partition;
    enum hub_state state;
    uint64_t next;        /* the next live sequence, once LIVE */
    struct source *first; /* of the hub's sources */
    struct call call;     /* follow_req */
};

/* A live event, rendered once for all that get it. */
struct live_event {
    struct rec_stored_event record;
    size_t body, body_len; /* in hubs->rendered; body_len 0: not rendered yet */
};

struct hubs {
    struct tail_ops ops;
    uint32_t partition_count;
    uint64_t pushed, subscriptions, retry_at_ms;
    struct subscription *creating;
    struct buf rendered;
    struct live_event *events;
    uint64_t events_cap;
    struct hub hubs[];
};

/* The source wants its hub's events; the hub is followed if it isn't yet. */
void hub_attach(struct hub *hub, struct source *source);
void hub_detach(struct source *source);
struct span hub_event_body(struct hubs *hubs, struct live_event *event);

/* The hub is live from hub->next on, for the first time or again. */
void source_on_followed(struct source *source);
void source_on_live(struct source *source, struct live_event *events, uint64_t count);
void source_retry(struct source *source);
void subscription_give_up(struct subscription *subscription);
