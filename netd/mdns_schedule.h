/* When to announce, and when to ask. Announcements go out three times from the start, and where
 * they are asked for, once a second at most (RFC 6762, 6 and 8.3). Questions go out while a node is
 * missing, less and less often (5.2); while all are there, nothing does. Pure: times in ms of any
 * clock above 0; `random` is any number. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct mdns_schedule {
    unsigned announces_left;
    uint64_t announce_ms; /* the next one of these is due */
    uint64_t answer_ms;   /* an answer is; 0: none */
    uint64_t sent_ms;     /* of the last announcement */
    bool missing;
    uint64_t asked_ms;             /* of the last question; 0: none yet */
    uint64_t ask_ms, ask_pause_ms; /* the next one, and the pause after it */
    uint64_t hurry_ms;             /* one that is due before; 0: none */
};

/* From the beginning: also when the addresses that are announced have changed. */
void mdns_schedule_start(struct mdns_schedule *schedule, uint64_t now_ms, uint64_t random);
/* Somebody asks. */
void mdns_schedule_asked(struct mdns_schedule *schedule, uint64_t now_ms, uint64_t random);
/* Whether nodes are missing; again: one more than before, so that it is worth asking soon. */
void mdns_schedule_missing(struct mdns_schedule *schedule, bool missing, bool again,
                           uint64_t now_ms, uint64_t random);
/* Each is true once: it goes out now. */
bool mdns_schedule_announce(struct mdns_schedule *schedule, uint64_t now_ms);
bool mdns_schedule_ask(struct mdns_schedule *schedule, uint64_t now_ms);
