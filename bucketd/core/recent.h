/* The newest entries of the log in memory, by idx: the records' bytes as they stand in the file.
 * What is sent to followers and published at commit needs no disk then.
 *
 * Consecutive entries lie one behind the other in memory: from one view's start, bytes run on to
 * the end of any later one (recent_span). */
#pragma once

#include <stdint.h>

#include "common/bytes.h"

struct recent;

struct recent_entry {
    uint64_t idx, term, chain;
    struct span bytes; /* its record; 8-byte aligned */
};

/* Holds about bytes_max of what may be forgotten (recent_trim). */
struct recent *recent_new(size_t bytes_max);
void recent_free(struct recent *recent);

/* idx is the one after recent_last, or any where it is empty. Copies the bytes (a multiple of 8).
 */
void recent_push(struct recent *recent, uint64_t idx, uint64_t term, uint64_t chain,
                 struct span bytes);
/* Entries >= from_idx are dead. */
void recent_cut(struct recent *recent, uint64_t from_idx);
/* Forgets the oldest entries below keep_from while more than bytes_max is held. */
void recent_trim(struct recent *recent, uint64_t keep_from);
/* Empties it: the next push may have any idx. */
void recent_reset(struct recent *recent);

/* 0: empty. */
uint64_t recent_first(const struct recent *recent);
uint64_t recent_last(const struct recent *recent);
/* Bytes held. */
size_t recent_bytes(const struct recent *recent);
/* False: not held. The view is valid until the next push, cut, trim or reset. */
bool recent_get(const struct recent *recent, uint64_t idx, struct recent_entry *ret_entry);
/* The records of entries idx, idx + 1, ... in one piece: as many whole ones as bytes_max holds, the
 * first in any case, none beyond last_idx. Returns how many; 0: idx isn't held. Valid as above. */
uint64_t recent_span(const struct recent *recent, uint64_t idx, uint64_t last_idx, size_t bytes_max,
                     struct span *ret_bytes);
