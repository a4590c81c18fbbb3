/* A small table of who was warned about, when. */
#include "netd/peer_warnings.h"

#include <stdio.h>

/* From so many sources that the table doesn't hold them for a minute: one warning a second. */
#define CROWD_MS 1000u

static struct peer_warning *find(struct peer_warnings *warnings, const char *source,
                                 enum peer_refusal refusal)
{
    for (unsigned i = 0; i < warnings->count; i++) {
        struct peer_warning *entry = &warnings->entries[i];
        if (entry->refusal == refusal && strcmp(entry->source, source) == 0)
            return entry;
    }
    return NULL;
}

/* A free place, or that of the oldest warning; NULL where that is younger than a minute and others
 * like this had their turn just now. */
static struct peer_warning *take_place(struct peer_warnings *warnings, uint64_t now_ms)
{
    if (warnings->count < PEER_WARNINGS_MAX)
        return &warnings->entries[warnings->count++];
    struct peer_warning *oldest = &warnings->entries[0];
    for (unsigned i = 1; i < warnings->count; i++)
        if (warnings->entries[i].at_ms < oldest->at_ms)
            oldest = &warnings->entries[i];
    if (now_ms - oldest->at_ms < PEER_WARNING_MS && now_ms - warnings->any_ms < CROWD_MS)
        return NULL;
    warnings->any_ms = now_ms;
    return oldest;
}

bool peer_warnings_due(struct peer_warnings *warnings, const char *source,
                       enum peer_refusal refusal, uint64_t now_ms, uint64_t *ret_quiet)
{
    char name[PEER_WARNING_NAME];
    snprintf(name, sizeof name, "%s", source);
    struct peer_warning *entry = find(warnings, name, refusal);
    if (entry != NULL && now_ms - entry->at_ms < PEER_WARNING_MS) {
        entry->quiet++;
        return false;
    }
    *ret_quiet = entry != NULL ? entry->quiet : 0;
    if (entry == NULL)
        entry = take_place(warnings, now_ms);
    if (entry == NULL)
        return false;
    *entry = (struct peer_warning){.refusal = refusal, .at_ms = now_ms};
    memcpy(entry->source, name, sizeof name);
    return true;
}
