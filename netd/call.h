/* A call: one request message to a bucket, from when it is asked for until its answer. The owner
 * embeds it and stays where it is until `done` was called or the call was cancelled. Pure. */
#pragma once

#include "proto/messages.h"

struct call_list;

struct call {
    struct call *prev, *next;
    struct call_list *list; /* the list it waits in, NULL outside the router */
    /* The answer, or a fail_reply made here (ERR_TIMEOUT, ERR_DOWN). Views are valid during the
     * call. The call may be submitted again, or its memory given up, from within. */
    void (*done)(struct call *call, const struct msg *reply);
    uint64_t deadline_ms; /* loop time; 0: waits as long as it takes */
    uint32_t bucket;
    uint32_t slot;
    uint32_t bytes;   /* appends: of the events, for the queue's bound */
    uint64_t sent_ms; /* loop time of the last sending */
    uint8_t tried;    /* targets whose data for it is damaged, a bit each */
    bool in_flight;
    bool sent;      /* at least once: its outcome is unknown until answered */
    bool maybe;     /* a replica may have taken it, and nobody has said what became of it */
    struct msg msg; /* req_id is the router's; views point into the owner's memory */
};

struct call_list {
    struct call *first, *last;
};

static inline void call_list_add(struct call_list *list, struct call *call)
{
    call->prev = list->last;
    call->next = NULL;
    call->list = list;
    if (list->last != NULL)
        list->last->next = call;
    else
        list->first = call;
    list->last = call;
}

static inline void call_list_remove(struct call *call)
{
    struct call_list *list = call->list;
    if (call->prev != NULL)
        call->prev->next = call->next;
    else
        list->first = call->next;
    if (call->next != NULL)
        call->next->prev = call->prev;
    else
        list->last = call->prev;
    call->prev = call->next = NULL;
    call->list = NULL;
}
