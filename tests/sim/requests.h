/* The requests that a simulated netd makes up, and their messages. */
#pragma once

#include "tests/sim/client.h"

/* Draws a new request; false where none is wanted now. */
bool request_invent(struct client *client, struct request *ret_request);
/* Numbers the request, keeps it in the client's list and packs its message. */
void request_send(struct client *client, const struct request *request, struct buf *out);
/* The id of the request that this message answers; 0: none. */
uint64_t request_answered_by(const struct msg *msg);
