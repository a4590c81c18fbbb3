/* What the tests of the supervisor's decisions share: time and processes, played by the test. Two
 * buckets: children 0 (netd), 1 and 2. */
#pragma once

#include <check.h>

#include "supervisor/supervisor.h"

#define CHILDREN 3

extern struct supervisor s;
extern uint64_t now_ms;
extern uint64_t boots[CHILDREN]; /* of the running process; 0: none */
extern unsigned starts[CHILDREN], kills[CHILDREN], let_gos[CHILDREN], ready_calls;
extern bool start_fails;
extern struct buf outboxes[CHILDREN];

void setup(void);
/* For the same with the other order of stopping: after teardown. */
void setup_with(bool buckets_stop_first);
void teardown(void);

/* Lets time pass as the shell does: called exactly when it asked to be. */
void pass(uint64_t ms);
/* The next message to a child of this kind of tag; others before it are skipped. */
struct msg take(unsigned child, enum msg_tag tag);
/* Nothing of this tag waits for the child. */
void check_none(unsigned child, enum msg_tag tag);
/* The last bucket_state that netd was told of this bucket; forgets all that waits. */
uint64_t told_state(uint32_t bucket);
void say(unsigned child, struct msg msg);
void linked(unsigned child);
void ready(unsigned child);
void ended(unsigned child);
/* again: in order to be started again. */
void ended_as(unsigned child, bool again);
/* The bucketd listens, netd dials and reports the link as up. Returns its number. */
uint64_t make_link(unsigned child);
void all_up(void);
