/* Replies that carry events, rendered straight from the messages' records. Pure.
 *
 * Keys of these maps are simple strings: the original's client skips bulk-string keys. */
#pragma once

#include "proto/messages.h"

/* Longest text of a number as written by reply_number. */
#define REPLY_NUMBER_LEN_MAX 20u

/* Decimal digits of value at `to`; returns how many. */
size_t reply_number(uint8_t *to, uint64_t value);

/* The event map's eleven pairs without its head, which alone depends on the protocol. */
void reply_event_body(struct buf *out, const struct rec_stored_event *event);
void reply_event_head(struct buf *out, int proto);
/* Head and body of the next `count_max` events of a list (fewer at its end); returns how many.
 * ERR_CORRUPT in *ret_err where the list can't be read. */
uint64_t reply_events(struct buf *out, int proto, struct span list, uint64_t count_max,
                      enum err *ret_err);

/* What EAPPEND answers. */
struct append_result {
    struct uuid event_id, partition_key;
    uint32_t partition;
    uint64_t sequence, version, timestamp_ms;
};
void reply_append(struct buf *out, int proto, const struct append_result *result);
/* EMAPPEND: the head, then once for each event. */
void reply_multi_append_head(struct buf *out, int proto, const struct uuid *key, uint32_t partition,
                             uint64_t first_sequence, uint64_t count);
void reply_multi_append_event(struct buf *out, int proto, const struct uuid *event_id,
                              struct span stream, uint64_t version, uint64_t timestamp_ms);

/* Head of a scan's reply; `count` events follow. */
void reply_scan_head(struct buf *out, int proto, bool has_more, uint64_t count);
