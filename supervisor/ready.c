/* A missing quorum makes no node unready that had been up to date: its reads go on, and its writes
 * are refused as those of any other node would be. */
#include "supervisor/ready.h"

#include <stdio.h>

static const char *what_of_state(const struct supervised *process);
static const char *what_of_replica(const struct ready_word *word, enum readiness *readiness);

enum readiness ready_process(const struct supervised *process, const struct ready_word *word,
                             char why[static READY_WHY_LEN])
{
    enum readiness readiness = READY_SOON;
    const char *what = NULL;
    if (process->reported_down && process->kind == CHILD_BUCKETD) {
        what = "doesn't start";
        readiness = READY_NOT_SOON;
    } else if (process->state != CHILD_UP) {
        what = what_of_state(process);
    } else if (!word->answers) {
        what = "doesn't answer";
    } else if (process->kind == CHILD_BUCKETD && process->introduction != INTRODUCTION_UP) {
        what = "has no link to netd yet";
    } else if (word->replicated) {
        what = what_of_replica(word, &readiness);
    }
    why[0] = '\0';
    if (what == NULL)
        return READY;
    char name[24];
    supervised_name(process, name);
    snprintf(why, READY_WHY_LEN, "%s %s", name, what);
    return readiness;
}

static const char *what_of_state(const struct supervised *process)
{
    static const char *const whats[] = {[CHILD_STARTING] = "is starting",
                                        [CHILD_UP] = NULL,
                                        [CHILD_STOPPING] = "is stopping",
                                        [CHILD_BACKOFF] = "ended and is about to start again",
                                        [CHILD_DOWN] = "doesn't start"};
    return whats[process->state];
}

static const char *what_of_replica(const struct ready_word *word, enum readiness *readiness)
{
    if (!word->told)
        return "hasn't told of its replica yet";
    if (word->damaged) {
        *readiness = READY_NOT_SOON;
        return "has a damaged log that waits for repair";
    }
    return word->level || word->stale ? NULL : "isn't up to date yet";
}
