/* Times of announcements and questions. */
#include "netd/mdns_schedule.h"

#include "common/bytes.h"

#define ANNOUNCES        3u
#define ANNOUNCE_MS      1000u /* between the first two; then twice as long */
#define PAUSE_MS         1000u /* between any two packets of a kind */
#define DELAY_MS_MIN     20u   /* many answer one question, so not all at once */
#define DELAY_MS_RANGE   100u
#define ASK_PAUSE_MS_MAX 60000u

static uint64_t soon(uint64_t now_ms, uint64_t random)
{
    return now_ms + DELAY_MS_MIN + random % DELAY_MS_RANGE;
}

void mdns_schedule_start(struct mdns_schedule *schedule, uint64_t now_ms, uint64_t random)
{
    schedule->announces_left = ANNOUNCES;
    schedule->announce_ms = soon(now_ms, random);
    mdns_schedule_missing(schedule, schedule->missing, true, now_ms, random);
}

void mdns_schedule_asked(struct mdns_schedule *schedule, uint64_t now_ms, uint64_t random)
{
    if (schedule->answer_ms == 0)
        schedule->answer_ms = max_u64(soon(now_ms, random), schedule->sent_ms + PAUSE_MS);
}

void mdns_schedule_missing(struct mdns_schedule *schedule, bool missing, bool again,
                           uint64_t now_ms, uint64_t random)
{
    if (missing && (again || !schedule->missing)) {
        /* A node that comes and goes isn't asked for each time. */
        uint64_t pause_ms = schedule->asked_ms != 0 ? schedule->asked_ms + PAUSE_MS : 0;
        if (schedule->hurry_ms == 0)
            schedule->hurry_ms = max_u64(soon(now_ms, random), pause_ms);
        schedule->ask_pause_ms = PAUSE_MS;
    }
    schedule->missing = missing;
}

bool mdns_schedule_announce(struct mdns_schedule *schedule, uint64_t now_ms)
{
    bool first = schedule->announces_left > 0 && now_ms >= schedule->announce_ms;
    bool answer = schedule->answer_ms != 0 && now_ms >= schedule->answer_ms;
    if (!first && !answer)
        return false;
    if (first) {
        schedule->announces_left--;
        schedule->announce_ms =
            now_ms + (schedule->announces_left > 1 ? ANNOUNCE_MS : 2 * ANNOUNCE_MS);
    }
    schedule->answer_ms = 0;
    schedule->sent_ms = now_ms;
    return true;
}

bool mdns_schedule_ask(struct mdns_schedule *schedule, uint64_t now_ms)
{
    uint64_t due_ms = schedule->hurry_ms != 0 ? schedule->hurry_ms : schedule->ask_ms;
    if (!schedule->missing || now_ms < due_ms)
        return false;
    schedule->hurry_ms = 0;
    schedule->asked_ms = now_ms;
    schedule->ask_ms = now_ms + schedule->ask_pause_ms;
    schedule->ask_pause_ms = min_u64(2 * schedule->ask_pause_ms, ASK_PAUSE_MS_MAX);
    return true;
}
