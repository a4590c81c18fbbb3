/* What a cut takes back: the entries that aren't committed, newest last, and the configurations.
 * The writer keeps them, and so does the pass that reads a segment. */
#include "bucketd/core/wal_internal.h"

#include <stdlib.h>

#define RING_CAP_MIN 256u

static void ring_grow(struct wal_undo *undo);

void wal_undo_begin(struct wal_undo *undo, const struct wal_state *state,
                    const struct wal_config_at *config)
{
    undo->commit_idx = state->last_idx;
    undo->commit_term = state->last_term;
    undo->commit_chain = state->last_chain;
    undo->commit_known = true;
    undo->first = state->last_idx + 1;
    undo->count = 0;
    undo->configs_len = 0;
    wal_undo_config(undo, config->idx, &config->voters);
}

void wal_undo_release(struct wal_undo *undo)
{
    free(undo->ring);
    free(undo->configs);
    *undo = (struct wal_undo){0};
}

void wal_undo_push(struct wal_undo *undo, const struct tail_entry *entry)
{
    if (undo->count == 0)
        undo->first = entry->idx;
    ASSERT(entry->idx == undo->first + undo->count);
    if (undo->count == undo->cap)
        ring_grow(undo);
    undo->ring[entry->idx & (undo->cap - 1)] = *entry;
    undo->count++;
}

static void ring_grow(struct wal_undo *undo)
{
    uint64_t cap = undo->cap == 0 ? RING_CAP_MIN : undo->cap * 2;
    struct tail_entry *ring = malloc(cap * sizeof *ring);
    ASSERT(ring != NULL);
    for (uint64_t idx = undo->first; idx < undo->first + undo->count; idx++)
        ring[idx & (cap - 1)] = undo->ring[idx & (undo->cap - 1)];
    free(undo->ring);
    undo->ring = ring;
    undo->cap = cap;
}

void wal_undo_config(struct wal_undo *undo, uint64_t idx, const struct wal_voters *voters)
{
    ASSERT(voters->count <= REPLICAS_MAX);
    if (undo->configs_len == undo->configs_cap) {
        undo->configs_cap = undo->configs_cap == 0 ? 4 : undo->configs_cap * 2;
        undo->configs = realloc(undo->configs, undo->configs_cap * sizeof *undo->configs);
        ASSERT(undo->configs != NULL);
    }
    undo->configs[undo->configs_len++] = (struct wal_config_at){.idx = idx, .voters = *voters};
}

const struct tail_entry *wal_undo_find(const struct wal_undo *undo, uint64_t idx)
{
    if (idx < undo->first || idx - undo->first >= undo->count)
        return NULL;
    const struct tail_entry *entry = &undo->ring[idx & (undo->cap - 1)];
    ASSERT(entry->idx == idx);
    return entry;
}

bool wal_undo_point(const struct wal_undo *undo, uint64_t idx, uint64_t *ret_term,
                    uint64_t *ret_chain)
{
    const struct tail_entry *entry = wal_undo_find(undo, idx);
    if (entry == NULL && (idx != undo->commit_idx || !undo->commit_known))
        return false;
    *ret_term = entry != NULL ? entry->term : undo->commit_term;
    *ret_chain = entry != NULL ? entry->chain : undo->commit_chain;
    return true;
}

void wal_undo_commit(struct wal_undo *undo, uint64_t idx)
{
    if (idx <= undo->commit_idx)
        return;
    undo->commit_known = wal_undo_point(undo, idx, &undo->commit_term, &undo->commit_chain);
    undo->commit_idx = idx;
    if (idx >= undo->first) {
        undo->count -= min_u64(undo->count, idx + 1 - undo->first);
        undo->first = idx + 1;
    }
    uint32_t old = 0;
    while (old + 1 < undo->configs_len && undo->configs[old + 1].idx <= idx)
        old++;
    if (old > 0) {
        undo->configs_len -= old;
        memmove(undo->configs, undo->configs + old, undo->configs_len * sizeof *undo->configs);
    }
}

const struct wal_config_at *wal_undo_in_force(const struct wal_undo *undo)
{
    ASSERT(undo->configs_len > 0);
    return &undo->configs[undo->configs_len - 1];
}

bool wal_undo_cut(struct wal_undo *undo, uint64_t from_idx, uint32_t bucket_count,
                  struct wal_state *state, struct wal_undone *ret_undone)
{
    ASSERT(from_idx > undo->commit_idx);
    *ret_undone = (struct wal_undone){0};
    while (undo->count > 0 && undo->first + undo->count > from_idx) {
        const struct tail_entry *entry = wal_undo_find(undo, undo->first + undo->count - 1);
        if (entry->kind == ENTRY_TX)
            state->next_seq[entry->partition / bucket_count] = entry->first_seq;
        ret_undone->entries++;
        ret_undone->events += entry->count;
        undo->count--;
    }
    ASSERT(state->events >= ret_undone->events);
    state->events -= ret_undone->events;
    while (undo->configs_len > 1 && undo->configs[undo->configs_len - 1].idx >= from_idx)
        undo->configs_len--;
    state->last_idx = from_idx - 1;
    return wal_undo_point(undo, from_idx - 1, &state->last_term, &state->last_chain);
}

/* --- what the log's users see of it --- */

uint64_t wal_commit_idx(const struct wal *wal)
{
    return wal->undo.commit_idx;
}

void wal_commit(struct wal *wal, uint64_t idx)
{
    ASSERT(idx <= wal->tail.last_idx);
    wal_undo_commit(&wal->undo, idx);
}

const struct tail_entry *wal_tail_entry(const struct wal *wal, uint64_t idx)
{
    return wal_undo_find(&wal->undo, idx);
}

bool wal_point(const struct wal *wal, uint64_t idx, uint64_t *ret_term, uint64_t *ret_chain)
{
    return wal_undo_point(&wal->undo, idx, ret_term, ret_chain);
}

const struct wal_voters *wal_voters(const struct wal *wal)
{
    return &wal_undo_in_force(&wal->undo)->voters;
}

uint64_t wal_config_idx(const struct wal *wal)
{
    return wal_undo_in_force(&wal->undo)->idx;
}
