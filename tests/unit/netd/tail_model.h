/* A bucket and its subscribers as the live tail sees them: appends, answers that come late or in
 * another order, restarts. What it tells its subscribers is computed from its log in the simplest
 * way. */
#pragma once

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "netd/subscription.h"
#include "proto/messages.h"

#define PARTITIONS  2u
#define STREAMS     3u /* in each partition */
#define EVENTS_MAX  4000u
#define SUBSCRIBERS 6u
#define CALLS_MAX   256u
#define TIMEOUT_MS  1000u

struct event {
    uint32_t stream;
    uint64_t version;
};

/* A message on its way from the bucket. */
struct letter {
    struct call *call; /* NULL: a tail */
    uint64_t ticket;   /* of the call when it was answered */
    struct msg msg;
    struct buf list;
};

struct submitted {
    struct call *call;
    uint64_t ticket;
    bool answered; /* its letter is on its way */
};

struct subscriber {
    struct subscription *subscription;
    bool stream_kind, latest, active, blocked;
    uint32_t partition, stream;
    uint64_t start;       /* LATEST: lower bound (at the command) */
    uint64_t start_limit; /* LATEST: upper bound (at the answer) */
    uint64_t next;        /* the position expected next, once the first came */
    bool started;
    uint64_t cursor, acknowledged, window;
    struct buf out;
};

struct world {
    struct hubs *hubs;
    uint64_t random;
    struct event log[PARTITIONS][EVENTS_MAX];
    uint64_t count[PARTITIONS];
    uint64_t versions[PARTITIONS][STREAMS];
    /* Up to here appends are answered: their tails arrive with the answers, or before. */
    uint64_t answered_count[PARTITIONS], answered_versions[PARTITIONS][STREAMS];
    bool followed[PARTITIONS];
    bool up;
    bool down;         /* the supervisor gave the bucket up */
    unsigned given_up; /* subscriptions that were told so */
    struct submitted calls[CALLS_MAX];
    unsigned call_count;
    struct letter *letters;
    unsigned letter_count, letter_cap;
    uint64_t tickets;
    struct subscriber subscribers[SUBSCRIBERS];
};

struct world *world_new(uint64_t seed);
/* All subscriptions have ended. */
void world_free(struct world *world);
uint64_t world_random(struct world *world, uint64_t below);
struct span world_stream(uint32_t stream);
/* A key whose hash leads to this partition. */
struct uuid world_key(uint32_t partition);

/* One to three events in some partition, and its tail message. */
void world_append(struct world *world);
/* Answers one of the calls, in any order: reads may come from a pool. */
void world_answer(struct world *world);
/* The oldest message on its way arrives. */
void world_deliver(struct world *world);
void world_crash(struct world *world);
void world_restart(struct world *world);
/* The subscription's command is answered. */
void world_activate(struct world *world, struct subscriber *subscriber);
