/* Feeding a request reader in pieces, and a readable account of what it gave. */
#pragma once

#include "proto/resp.h"

extern const struct resp_limits resp_small_limits, resp_large_limits;

/* Takes all there is, with a line for each result: "[count] type.kind:value …", or the error. */
void resp_drain(struct resp_reader *reader, struct buf *out);
/* Feeds bytes in pieces of the sizes that `piece` yields, taking what there is after each. */
void resp_feed(struct resp_reader *reader, struct span bytes, struct buf *out,
               size_t (*piece)(void *), void *ctx);

/* Sizes of pieces: all at once; the size_t that ctx points to, always or once; arbitrary ones from
 * the uint64_t that ctx points to. */
size_t resp_whole(void *ctx);
size_t resp_fixed(void *ctx);
size_t resp_split_at(void *ctx);
size_t resp_arbitrary(void *ctx);
